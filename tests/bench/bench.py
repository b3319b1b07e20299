#!/usr/bin/env python3
"""Runs smtpd788 and its peers in turn, on loopback, with the same load, and prints ratios.

    cargo build --release && sudo python3 tests/bench/bench.py [--rounds N] [--scale X] [--only ROW ...] [--svg FILE]

Peers: smtp-sink, which reads everything and keeps nothing (the ceiling), and Postfix, which delivers to an mbox by
virtual(8), with its own configuration and queue in a temporary folder. The load is Postfix's smtp-source. Needs the
Debian package postfix and root (Postfix insists), and changes nothing of the machine's own Postfix.

Each round runs every server once, one after the other, so that a drift of the machine's speed touches all alike; what
is printed is the median of the rounds. Every message that smtpd788 and Postfix took is counted in the mbox. The folder
is made where TMPDIR says: it must be a disk, because a sync on tmpfs costs nothing.
"""

import argparse
import ctypes
import os
import pathlib
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/smtpd788"
OURS, SINK, POSTFIX, POSTFIX_RELAY, OURS_RELAY, EMPTY = (f"127.0.0.{n}" for n in range(31, 37))
PORT = 2578
PATIENCE = 120


RUNNING = []


def run(*command, **options):
    return subprocess.run([str(c) for c in command], check=True, **options)


def die_with_us():
    """In a child: however this script ends, the child ends too (PR_SET_PDEATHSIG)."""
    LIBC.prctl(1, signal.SIGKILL)


LIBC = ctypes.CDLL(None)


def wait_until(condition, what):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"waited in vain: {what}")
        time.sleep(0.002)


def listening(host):
    try:
        socket.create_connection((host, PORT), 1).close()
        return True
    except OSError:
        return False


def pss_kib(pids):
    total = 0
    for pid in pids:
        try:
            for line in open(f"/proc/{pid}/smaps_rollup"):
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
        except OSError:
            pass
    return total


def children(pid):
    found = [pid]
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if int(open(f"/proc/{entry}/stat").read().rsplit(")", 1)[1].split()[1]) == pid:
                    found += children(int(entry))
            except OSError:
                pass
    return found


def count(path):
    try:
        with open(path, "rb") as mbox:
            return sum(1 for line in mbox if line.startswith(b"From "))
    except FileNotFoundError:
        return 0


class Ours:
    name = "smtpd788"

    def __init__(self, folder, host=OURS, users="john:{}/mail/john\n*:{}/mail/rest\n", more=""):
        self.folder, self.host = folder, host
        folder.mkdir()
        self.mbox = folder / "mail/john"
        (folder / "mail.conf").write_text(
            f"HOSTNAME = mail.example\nLISTEN_ADDR = {host}\nLISTEN_PORT = {PORT}\nMAX_CLIENTS = 20000\n"
            f"SPOOL_DIR = {folder}/spool\nRELAY_PORT = {PORT}\n{more}"
        )
        (folder / "user.conf").write_text(users.replace("{}", str(folder)))
        self.start()

    def start(self):
        log = self.folder / "log"
        with open(log, "ab") as stdout:
            size = stdout.tell()
            began = time.monotonic()
            command = [BINARY, self.folder / "mail.conf", self.folder / "user.conf"]
            self.process = subprocess.Popen(command, stdout=stdout, preexec_fn=die_with_us)
        RUNNING.append(self)
        with open(log, "rb") as lines:
            lines.seek(size)
            while b"listening on" not in lines.read():
                if self.process.poll() is not None:
                    sys.exit(f"smtpd788 ended, status {self.process.returncode}")
                lines.seek(size)
                time.sleep(0.0002)
        self.started = time.monotonic() - began

    def pids(self):
        return [self.process.pid]

    def delivered(self):
        return count(self.mbox)

    def stop(self):
        RUNNING.remove(self)
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


class Sink:
    name = "smtp-sink"
    host = SINK
    mbox = None

    def __init__(self, folder, host=SINK):
        self.host = host
        command = ["smtp-sink", "-u", "postfix", f"{host}:{PORT}", "4096"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=die_with_us)
        RUNNING.append(self)
        wait_until(lambda: listening(host), "smtp-sink")

    def pids(self):
        return [self.process.pid]

    def stop(self):
        RUNNING.remove(self)
        self.process.kill()
        self.process.wait()


class Postfix:
    name = "postfix"

    def __init__(self, folder, host=POSTFIX, relay=False):
        import pwd

        self.host, self.folder = host, folder
        owner = pwd.getpwnam("postfix")
        conf, queue, data, mail = (folder / name for name in ("conf", "queue", "data", "mail"))
        for path in (folder, conf, queue, data, mail):
            path.mkdir(mode=0o755)
        os.chown(data, owner.pw_uid, -1)
        os.chown(mail, 65534, -1)
        self.mbox = mail / "john"
        (conf / "rest").write_text("/./ john\n")
        (conf / "main.cf").write_text(f"""
compatibility_level = 3.6
queue_directory = {queue}
data_directory = {data}
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
inet_protocols = ipv4
inet_interfaces = 127.0.0.1
myhostname = postfix.example
mydestination =
mynetworks = 127.0.0.0/8
maillog_file =
syslog_facility = local7
virtual_mailbox_domains = {"" if relay else "mail.example"}
virtual_mailbox_base = {mail}
virtual_mailbox_maps = regexp:{conf}/rest
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
virtual_minimum_uid = 1
virtual_mailbox_limit = 0
message_size_limit = 0
mailbox_size_limit = 0
default_process_limit = 300
smtpd_client_connection_count_limit = 0
relayhost = {f"[{SINK}]:{PORT}" if relay else ""}
smtp_bind_address = {host}
""")
        services = f"""{host}:{PORT} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
"""
        (conf / "master.cf").write_text(services)
        run("postfix", "-c", conf, "start", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        RUNNING.append(self)
        wait_until(lambda: listening(host), "Postfix")
        self.master = int((queue / "pid/master.pid").read_text())

    def pids(self):
        return children(self.master)

    def delivered(self):
        return count(self.mbox)

    def waiting(self):
        queues = ("incoming", "active", "deferred", "maildrop")
        return sum(len(files) for name in queues for _, _, files in os.walk(self.folder / "queue" / name))

    def stop(self):
        RUNNING.remove(self)
        run("postfix", "-c", self.folder / "conf", "stop", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: not listening(self.host), "the end of Postfix")


def send(server, sessions, messages, length, *flags, to="john@mail.example"):
    command = ["smtp-source", *flags, "-s", sessions, "-m", messages, "-l", length]
    run(*command, "-f", "a@b.example", "-t", to, f"{server.host}:{PORT}", stderr=subprocess.DEVNULL)


def rate(server, sessions, messages, length, *flags):
    """Messages a second, until the last one is delivered."""
    before = server.delivered() if server.mbox else 0
    os.sync()  # nobody pays for what another has left to be written
    began = time.monotonic()
    send(server, sessions, messages, length, *flags)
    if isinstance(server, Postfix):
        wait_until(lambda: server.waiting() == 0, "Postfix's empty queue")
    took = time.monotonic() - began
    if server.mbox:
        after = server.delivered()
        if after - before != messages:
            sys.exit(f"{server.name}: {messages} sent, {after - before} in the mbox")
    return messages / took


def median_row(name, rounds, servers, measure):
    figures = {server.name: [] for server in servers}
    for _ in range(rounds):
        for server in servers:
            figures[server.name].append(measure(server))
    medians = {name: statistics.median(values) for name, values in figures.items()}
    ours = medians["smtpd788"]
    line = f"{name:34}"
    for server, values in figures.items():
        line += f" {server} {medians[server]:9.0f}/s ({min(values):.0f}..{max(values):.0f})"
    for server in medians:
        if server != "smtpd788":
            line += f"  {ours / medians[server]:6.2f} x {server}"
    print(line, flush=True)
    return medians


def throughput(options, folder):
    rows = {
        "20 sessions, 1 kB, kept": (20, 20000, 1000, "-d"),
        "1 session, 1 kB, kept": (1, 4000, 1000, "-d"),
        "20 sessions, 1 kB, reconnecting": (20, 10000, 1000),
        "4 sessions, 1 MB, kept": (4, 200, 1000000, "-d"),
    }
    servers = [Ours(folder / "ours"), Sink(folder), Postfix(folder / "postfix")]
    for name, (sessions, messages, length, *flags) in rows.items():
        messages = max(sessions, int(messages * options.scale))
        small = max(sessions, messages // 5)

        def measure(server):
            # Postfix is slow: a fifth of the messages tells its rate as well.
            many = small if isinstance(server, Postfix) else messages
            return rate(server, sessions, many, length, *flags)

        median_row(name, options.rounds, servers, measure)
    for server in servers:
        server.stop()


def recipients(options, folder):
    """100 recipients a message, in 20 mailboxes: beside one recipient, and beside 20 messages of one."""
    users = "".join(f"{n}john:{{}}/mail/{n % 20}\n" for n in range(0, 101)) + "john:{}/mail/john\n"
    ours = Ours(folder / "ours", users=users)
    many, one = [], []
    messages = max(20, int(1000 * options.scale))
    for _ in range(options.rounds):
        for figures, flags in ((one, ()), (many, ("-r", "100"))):
            os.sync()
            began = time.monotonic()
            send(ours, 4, messages, 1000, "-d", *flags)
            figures.append(messages / (time.monotonic() - began))
    ours.stop()
    one, many = statistics.median(one), statistics.median(many)
    print(f"{'100 recipients, 20 mailboxes':34} {many:.0f} messages/s, one recipient {one:.0f}/s: {one / many:.1f} times as long")


def idle(options, folder):
    """Many idle clients: memory for each, and how soon a new one is served."""
    clients = int(10000 * options.scale)
    ours = Ours(folder / "ours")
    empty = pss_kib(ours.pids())
    sockets = []
    for number in range(clients):
        client = socket.socket()
        client.bind((f"127.0.1.{number // 20000 + 1}", 0))
        client.connect((ours.host, PORT))
        sockets.append(client)
    for client in sockets:
        assert client.recv(4) == b"220 "
    each = (pss_kib(ours.pids()) - empty) / clients
    waits = []
    for _ in range(20):
        began = time.monotonic()
        with socket.create_connection((ours.host, PORT)) as client:
            assert client.recv(4) == b"220 "
            client.sendall(b"HELO c\r\n")
            client.recv(200)
        waits.append(time.monotonic() - began)
    for client in sockets:
        client.close()
    print(f"{f'{clients} idle clients':34} {each:.1f} KiB (PSS) each; a new one is served within {max(waits) * 1000:.1f} ms")
    ours.stop()


def start(options, folder):
    ours = Ours(folder / "ours")
    times = [ours.started]
    memory = pss_kib(ours.pids())
    for _ in range(max(5, options.rounds)):
        ours.stop()
        ours.start()
        times.append(ours.started)
        memory = max(memory, pss_kib(ours.pids()))
    ours.stop()
    print(f"{'start':34} {statistics.median(times) * 1000:.1f} ms to `listening on`; empty daemon {memory / 1024:.1f} MiB (PSS)")


def relay(options, folder):
    """In and out at once: 20 connections in, the spool, smtp-sink as the next hop."""
    messages = max(20, int(5000 * options.scale))
    to = f"john@[{SINK}]"
    ours = Ours(folder / "ours", host=OURS_RELAY)
    sink, postfix = Sink(folder), Postfix(folder / "postfix", POSTFIX_RELAY, relay=True)
    figures = {name: [] for name in ("smtpd788", "smtp-sink", "postfix")}
    for _ in range(options.rounds):
        for server, empty in (
            (ours, lambda: not any(len(n) == 16 for n in os.listdir(ours.folder / "spool"))),
            (sink, lambda: True),
            (postfix, lambda: postfix.waiting() == 0),
        ):
            many = max(20, messages // 5) if server is postfix else messages
            os.sync()
            began = time.monotonic()
            send(server, 20, many, 1000, "-d", to=to)
            wait_until(empty, "the empty queue")
            figures[server.name].append(many / (time.monotonic() - began))
    for server in (ours, sink, postfix):
        server.stop()
    medians = {name: statistics.median(values) for name, values in figures.items()}
    ours = medians["smtpd788"]
    print(
        f"{'spool to smtp-sink, 1 kB':34}"
        + "".join(f" {name} {median:9.0f}/s" for name, median in medians.items())
        + "".join(f"  {ours / m:6.2f} x {name}" for name, m in medians.items() if name != "smtpd788")
    )


def backlog(options, folder):
    """Very many messages wait for a host that is dead; beside it, a daemon without any."""
    waiting = int(100000 * options.scale)
    ours = Ours(folder / "ours", more="RETRY_MIN = 1h\nRELAY_TIMEOUT = 5\n")
    empty = Ours(folder / "empty", host=EMPTY)
    messages = max(20, int(5000 * options.scale))

    def beside():
        """The median rate of new mail, and its ratio to that of the other in the same moments."""
        for server in (ours, empty):
            rate(server, 20, messages, 1000, "-d")
        pairs = [[rate(server, 20, messages, 1000, "-d") for server in (ours, empty)] for _ in range(3 * options.rounds)]
        return statistics.median(one for one, _ in pairs), statistics.median(one / other for one, other in pairs)

    before = beside()
    send(ours, 20, waiting, 1000, "-d", to="john@[127.0.0.99]")
    memory = pss_kib(ours.pids())
    after = beside()
    ours.stop()
    ours.start()
    started = ours.started
    began = time.monotonic()
    with socket.create_connection((ours.host, PORT)) as client:
        assert client.recv(4) == b"220 "
    accepted = started + time.monotonic() - began
    time.sleep(5)
    memory = max(memory, pss_kib(ours.pids()))
    later = beside()
    ours.stop()
    empty.stop()
    before, after, later = (f"{speed:.0f}/s ({ratio:.2f} x a daemon without)" for speed, ratio in (before, after, later))
    print(
        f"{f'{waiting} messages wait':34} {memory / 1024:.1f} MiB (PSS); {accepted * 1000:.0f} ms to the first accept; "
        f"new mail {before} before, {after} with them, {later} after a restart"
    )


def picture(options, folder):
    """Messages a second and memory over the number of clients, as an SVG."""
    clients = [1, 2, 5, 10, 20, 50, 100, 200]
    servers = [Ours(folder / "ours"), Sink(folder), Postfix(folder / "postfix")]
    speed = {server.name: [] for server in servers}
    memory = {server.name: [] for server in servers}
    for number in clients:
        rates = {server.name: [] for server in servers}
        for _ in range(options.rounds):
            for server in servers:
                many = 1000 if isinstance(server, Postfix) else 5000
                rates[server.name].append(rate(server, number, max(number, int(many * options.scale)), 1000, "-d"))
        for server in servers:
            speed[server.name].append(statistics.median(rates[server.name]))
            held = [socket.create_connection((server.host, PORT), PATIENCE) for _ in range(number)]
            for client in held:
                client.recv(4)
            memory[server.name].append(pss_kib(server.pids()) / 1024)
            for client in held:
                client.close()
    for server in servers:
        server.stop()
    pathlib.Path(options.svg).write_text(draw(clients, speed, memory))
    print(f"drawn: {options.svg}")


def ceiling(value):
    """The next round number of which a quarter is round too."""
    unit = 10 ** (len(str(int(value))) - 1)
    return next(step * unit for step in (1, 2, 4, 6, 8, 12) if step * unit >= value)


def draw(clients, speed, memory):
    width, height, gap, left, top = 360, 260, 90, 70, 50
    colours = {"smtpd788": "#c0392b", "smtp-sink": "#7f8c8d", "postfix": "#2471a3"}
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * width + gap + left + 40}" height="{height + top + 80}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
    ]
    for chart, (title, figures) in enumerate(
        (("messages a second (1 kB, kept connections)", speed), ("memory in MiB (PSS), that many clients connected", memory))
    ):
        x0, most = left + chart * (width + gap), ceiling(max(max(v) for v in figures.values()))
        out.append(f'<text x="{x0}" y="{top - 20}" font-size="14">{title}</text>')
        for part in range(5):
            y = top + height - height * part / 4
            label = f"{most * part / 4:.0f}"
            out.append(f'<line x1="{x0}" x2="{x0 + width}" y1="{y}" y2="{y}" stroke="#ddd"/>')
            out.append(f'<text x="{x0 - 6}" y="{y + 4}" text-anchor="end">{label}</text>')
        places = [x0 + width * place / (len(clients) - 1) for place in range(len(clients))]
        for x, number in zip(places, clients):
            out.append(f'<text x="{x}" y="{top + height + 18}" text-anchor="middle">{number}</text>')
        out.append(f'<text x="{x0 + width / 2}" y="{top + height + 36}" text-anchor="middle">clients</text>')
        for name, values in figures.items():
            points = " ".join(f"{x:.1f},{top + height - height * v / most:.1f}" for x, v in zip(places, values))
            out.append(f'<polyline points="{points}" fill="none" stroke="{colours[name]}" stroke-width="2.5"/>')
    for place, (name, colour) in enumerate(colours.items()):
        x, y = left + place * 120, top + height + 62
        out.append(f'<rect x="{x}" y="{y - 10}" width="20" height="4" fill="{colour}"/><text x="{x + 26}" y="{y - 4}">{name}</text>')
    return "\n".join(out) + "\n</svg>\n"


def main():
    rows = {row.__name__: row for row in (start, throughput, recipients, idle, relay, backlog)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each row (3)")
    parser.add_argument("--scale", type=float, default=1, help="messages and clients, times this (1)")
    parser.add_argument("--only", nargs="+", choices=rows, default=list(rows), help="these rows")
    parser.add_argument("--svg", help="draw the picture into this file, instead of the rows")
    options = parser.parse_args()
    if not BINARY.exists():
        sys.exit(f"{BINARY} is missing: cargo build --release")
    import resource

    for host in (OURS, SINK, POSTFIX, POSTFIX_RELAY, OURS_RELAY):
        if listening(host):
            sys.exit(f"{host}:{PORT} is in use: end what listens there (`ss -ltnp`), perhaps the rest of a run that was killed")
    # Terminated, hung up: stop the servers, as after an error.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    postfix = subprocess.run(["postconf", "-h", "mail_version"], capture_output=True, text=True).stdout.strip()
    ours = subprocess.run([BINARY, "-V"], capture_output=True, text=True).stdout.strip()
    print(f"{ours}, Postfix {postfix}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.2f}, {os.uname().release}")
    for row in [picture] if options.svg else [rows[name] for name in options.only]:
        folder = pathlib.Path(tempfile.mkdtemp(prefix="bench-"))
        folder.chmod(0o755)
        try:
            row(options, folder)
        finally:
            for server in list(RUNNING):
                server.stop()
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

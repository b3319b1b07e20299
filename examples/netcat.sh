#!/bin/sh
# Sends one mail by netcat: netcat.sh [ADDR [PORT [FROM [TO]]]] <TEXT
# NC names another netcat. Ends with 0 if the daemon has answered 250 to the message, 64 for wrong usage, else with 1.
case ${1-} in
-*)
    sed -n '2,3s/^# //p' "$0"
    [ "$1" = --help ] || [ "$1" = -h ] || exit 64
    exit 0
    ;;
esac
addr=${1:-127.0.0.1} port=${2:-2525} from=${3:-me@localhost} to=${4:-john@localhost}
nc=${NC:-nc}

# The standard's line end is CR LF: -C gives it where the netcat has that option. Where it has not, plain LF is
# understood too, as long as the whole session keeps to it.
if "$nc" -h 2>&1 | grep -q -e '-C[[:space:]].*CRLF'; then crlf=-C; else crlf=; fi

# A line that begins with a dot gets one more (RFC 788 4.5.2). A header ends with an empty line: a TEXT that does not
# begin with a header gets one first. After QUIT it is the daemon that closes.
# All is sent at once, without waiting for replies: if the recipient is refused, the text is read as commands. So do
# not send the text of strangers like this (examples/send.rs waits).
replies=$({
    printf 'HELO localhost\nMAIL FROM:<%s>\nRCPT TO:<%s>\nDATA\n' "$from" "$to"
    tr -d '\r' | awk 'NR == 1 && !/^[!-9;-~]+[ \t]*:/ && !/^$/ { print "" } { sub(/^\./, "..") } { print }'
    printf '.\nQUIT\n'
} | "$nc" ${crlf:+"$crlf"} -w 60 "$addr" "$port")

if [ -z "$replies" ]; then
    printf '%s\n' "no answer from $addr port $port: the connection was refused, or nobody listens there" >&2
    exit 1
fi
printf '%s\n' "$replies"
case $replies in
*'250 OK id='*) exit 0 ;;
*) exit 1 ;;
esac

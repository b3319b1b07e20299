//! RUN_AS: who to become once the ports are bound, looked up in the system's users and groups.

use nix::unistd::{Group, Uid, User};

use crate::daemon::config::value::number;

/// RUN_AS, looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunAs {
    /// The user's name, or the number if it has none.
    pub user: String,
    /// Its number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
}

/// `user` or `user:group`, by name or number.
pub(crate) fn run_as(text: &str) -> Result<RunAs, String> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user.trim(), Some(group.trim())),
        None => (text, None),
    };
    let number_of = |text: &str| number(text).and_then(|number| u32::try_from(number).ok());
    let failed = |error: nix::Error| format!("cannot look up \"{text}\": {error}");
    let mut entry = User::from_name(user).map_err(failed)?;
    if let (None, Some(number)) = (&entry, number_of(user)) {
        entry = User::from_uid(Uid::from_raw(number)).map_err(failed)?;
    }
    let uid = entry.as_ref().map(|entry| entry.uid.as_raw());
    let uid = uid.or_else(|| number_of(user));
    let uid = uid.ok_or_else(|| format!("there is no user \"{user}\" on this system"))?;
    let gid = match (group, &entry) {
        (Some(group), _) => {
            let gid = Group::from_name(group)
                .map_err(failed)?
                .map(|group| group.gid.as_raw());
            let gid = gid.or_else(|| number_of(group));
            gid.ok_or_else(|| format!("there is no group \"{group}\" on this system"))?
        }
        (None, Some(entry)) => entry.gid.as_raw(),
        (None, None) => {
            return Err(format!(
                "user {uid} has no name, so add a group: {uid}:GROUP"
            ));
        }
    };
    let user = entry.map_or_else(|| user.to_owned(), |entry| entry.name);
    Ok(RunAs { user, uid, gid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_by_name_and_number() {
        let root = RunAs {
            user: "root".into(),
            uid: 0,
            gid: 0,
        };
        for text in ["root", "root:root", "0", "0:0", "root : 0"] {
            assert_eq!(run_as(text), Ok(root.clone()), "{text}");
        }
        assert_eq!(run_as("root:4242").unwrap().gid, 4242);
        let nameless = RunAs {
            user: "3999999999".into(),
            uid: 3_999_999_999,
            gid: 7,
        };
        assert_eq!(run_as("3999999999:7"), Ok(nameless));
        for text in [
            "nobody-of-this-name",
            "root:no-such-group",
            "3999999999",
            "root:",
            ":root",
            "",
        ] {
            assert!(run_as(text).is_err(), "{text}");
        }
    }
}

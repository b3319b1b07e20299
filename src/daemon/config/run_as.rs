//! RUN_AS: who to become once the ports are bound, looked up in the system's users and groups.

use nix::unistd::{Gid, Group, Uid, User};

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
    let entry = match (User::from_name(user).map_err(failed)?, number_of(user)) {
        (None, Some(number)) => User::from_uid(Uid::from_raw(number)).map_err(failed)?,
        (entry, _) => entry,
    };
    let (name, uid) = match (&entry, number_of(user)) {
        (Some(entry), _) => (entry.name.clone(), entry.uid.as_raw()),
        (None, Some(number)) => (user.to_owned(), number),
        (None, None) => return Err(format!("there is no user \"{user}\" on this system")),
    };
    let gid = match (group, entry) {
        (None, Some(entry)) => entry.gid,
        (None, None) => {
            return Err(format!(
                "user {uid} has no name, so add a group: {uid}:GROUP"
            ));
        }
        (Some(group), _) => match (Group::from_name(group).map_err(failed)?, number_of(group)) {
            (Some(group), _) => group.gid,
            (None, Some(number)) => Gid::from_raw(number),
            (None, None) => return Err(format!("there is no group \"{group}\" on this system")),
        },
    };
    Ok(RunAs {
        user: name,
        uid,
        gid: gid.as_raw(),
    })
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

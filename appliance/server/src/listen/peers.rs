//! Which users of this machine may connect to a Unix socket.

use std::collections::BTreeSet;
use std::fs;

use crate::error::ServeError;

/// The users that are let in: the service's own and root always, others when named.
#[derive(Debug, Clone, Default)]
pub struct Peers {
    anyone: bool,
    users: BTreeSet<u32>,
    groups: BTreeSet<u32>,
}

/// Somebody to let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// Whoever the socket's permissions let through.
    Anyone,
    /// A user, by name or number.
    User(String),
    /// Those whose group it is, and its members.
    Group(String),
}

impl std::str::FromStr for Who {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix('@') {
            Some("") => Err("give a group name after the @".into()),
            Some(group) => Ok(Self::Group(group.to_owned())),
            None if text.is_empty() => Err("give a user name, @group or any".into()),
            None if text == "any" => Ok(Self::Anyone),
            None => Ok(Self::User(text.to_owned())),
        }
    }
}

impl Peers {
    /// Looks names up in this machine's own files.
    ///
    /// # Errors
    /// A name that is not there.
    pub fn new(allowed: &[Who]) -> Result<Self, ServeError> {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self::with_files(allowed, &read("/etc/passwd"), &read("/etc/group"))
    }

    fn with_files(allowed: &[Who], passwd: &str, group: &str) -> Result<Self, ServeError> {
        let mut peers = Self::default();
        for who in allowed {
            match who {
                Who::Anyone => peers.anyone = true,
                Who::User(name) => {
                    let id = number(name, passwd).ok_or_else(|| unknown("user", name))?;
                    peers.users.insert(id);
                }
                Who::Group(name) => {
                    let id = number(name, group).ok_or_else(|| unknown("group", name))?;
                    peers.groups.insert(id);
                    let members = members(id, group);
                    peers
                        .users
                        .extend(members.filter_map(|m| number(m, passwd)));
                }
            }
        }
        Ok(peers)
    }

    /// Whether a process of this user and group is let in by a service of `own` user.
    #[must_use]
    pub fn allow(&self, user: u32, group: u32, own: u32) -> bool {
        self.anyone
            || user == 0
            || user == own
            || self.users.contains(&user)
            || self.groups.contains(&group)
    }
}

fn unknown(what: &str, name: &str) -> ServeError {
    ServeError::Config(format!(
        "--allow: this machine has no {what} {name:?}; a number works too"
    ))
}

/// The number of a name in a file of the form `name:x:number:…`, or the number itself.
fn number(name: &str, file: &str) -> Option<u32> {
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    let mut lines = file.lines().map(|line| line.split(':'));
    let mut line = lines.find(|line| line.clone().next() == Some(name))?;
    line.nth(2)?.parse().ok()
}

/// The members of a group, by its number.
fn members(id: u32, file: &str) -> impl Iterator<Item = &str> {
    let id = id.to_string();
    let lines = file.lines().map(|line| line.split(':'));
    lines
        .filter(move |line| line.clone().nth(2) == Some(&id))
        .filter_map(|mut line| line.nth(3))
        .flat_map(|members| members.split(','))
        .filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/:/x\nbob:x:1001:50::/:/x\n";
    const GROUP: &str = "root:x:0:\nstaff:x:50:ann\nai:x:60:bob,ghost\n";

    fn peers(who: &[&str]) -> Result<Peers, ServeError> {
        let who: Vec<Who> = who.iter().map(|w| w.parse().unwrap()).collect();
        Peers::with_files(&who, PASSWD, GROUP)
    }

    #[test]
    fn the_services_own_user_and_root_are_let_in_and_others_by_name() {
        let none = peers(&[]).unwrap();
        assert!(none.allow(7, 7, 7) && none.allow(0, 0, 7));
        assert!(!none.allow(1000, 1000, 7));
        let ann = peers(&["ann"]).unwrap();
        assert!(ann.allow(1000, 1000, 7) && !ann.allow(1001, 50, 7));
        let staff = peers(&["@staff"]).unwrap();
        assert!(staff.allow(1000, 1000, 7), "a member");
        assert!(staff.allow(1001, 50, 7), "whose group it is");
        assert!(!peers(&["@ai"]).unwrap().allow(1000, 1000, 7));
        assert!(peers(&["4242"]).unwrap().allow(4242, 1, 7));
        assert!(peers(&["any"]).unwrap().allow(4242, 1, 7));
    }

    #[test]
    fn unknown_names_are_refused() {
        for bad in ["ghost", "@ghost"] {
            let error = peers(&[bad]).unwrap_err().to_string();
            assert!(error.contains("ghost"), "{error}");
        }
        assert!("@".parse::<Who>().is_err() && "".parse::<Who>().is_err());
    }
}

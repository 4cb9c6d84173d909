//! Formats of strings.

/// What a format's name means here.
pub(super) enum Format {
    /// All of the text matches this.
    Pattern(&'static str),
    /// The grammar knows it by its name.
    Known,
    /// It says how a value is shown or kept.
    Hint,
    /// Nothing.
    Unknown,
}

/// The days of the calendar from the year 1 on.
macro_rules! date {
    () => {
        concat!(
            r"(?:(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])",
            r"|(?:0[48]|[2468][048]|[13579][26])00)-02-29",
            r"|(?:[0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)-(?:",
            r"(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|",
            r"(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|",
            r"02-(?:0[1-9]|1[0-9]|2[0-8])))"
        )
    };
}

/// A time of the day with its zone. A minute has 60 seconds, as most readers demand.
macro_rules! time {
    () => {
        concat!(
            r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?",
            r"(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
        )
    };
}

const DATE: &str = concat!("^", date!(), "$");
const TIME: &str = concat!("^", time!(), "$");
const DATE_TIME: &str = concat!("^", date!(), "T", time!(), "$");
const DURATION: &str = concat!(
    r"^P(?:[0-9]{1,4}W|(?:[0-9]{1,4}Y(?:[0-9]{1,4}M(?:[0-9]{1,4}D)?)?",
    r"|[0-9]{1,4}M(?:[0-9]{1,4}D)?|[0-9]{1,4}D)",
    r"(?:T(?:[0-9]{1,4}H(?:[0-9]{1,4}M(?:[0-9]{1,4}S)?)?",
    r"|[0-9]{1,4}M(?:[0-9]{1,4}S)?|[0-9]{1,4}S))?",
    r"|T(?:[0-9]{1,4}H(?:[0-9]{1,4}M(?:[0-9]{1,4}S)?)?",
    r"|[0-9]{1,4}M(?:[0-9]{1,4}S)?|[0-9]{1,4}S))$"
);
/// What RFC 5321 and those who are stricter take alike.
const EMAIL: &str = concat!(
    r"^[A-Za-z0-9_+-]{1,20}(?:\.[A-Za-z0-9_+-]{1,10}){0,4}",
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,40}[A-Za-z0-9])?\.){1,4}[A-Za-z]{2,24}$"
);
const BASE64: &str = r"^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$";
const JSON_POINTER: &str = r"^(?:/(?:[^~/]|~[01])*)*$";

macro_rules! uuid {
    ($version:literal) => {
        concat!(
            "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-",
            $version,
            "[0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}$"
        )
    };
}

/// A format by its name.
pub(super) fn find(name: &str) -> Format {
    match name {
        "date" => Format::Pattern(DATE),
        "time" => Format::Pattern(TIME),
        "date-time" => Format::Pattern(DATE_TIME),
        "duration" => Format::Pattern(DURATION),
        "email" | "idn-email" => Format::Pattern(EMAIL),
        "uuid1" => Format::Pattern(uuid!("1")),
        "uuid3" => Format::Pattern(uuid!("3")),
        "uuid4" => Format::Pattern(uuid!("4")),
        "uuid5" => Format::Pattern(uuid!("5")),
        "uuid6" => Format::Pattern(uuid!("6")),
        "uuid7" => Format::Pattern(uuid!("7")),
        "uuid8" => Format::Pattern(uuid!("8")),
        "byte" | "base64" => Format::Pattern(BASE64),
        "json-pointer" => Format::Pattern(JSON_POINTER),
        "hostname" | "ipv4" | "ipv6" | "uuid" | "uri" => Format::Known,
        "password" | "binary" | "textarea" | "multi-line" | "markdown" | "html" | "path"
        | "file-path" | "directory-path" | "string" | "int32" | "int64" | "float" | "double" => {
            Format::Hint
        }
        _ => Format::Unknown,
    }
}

/// The pattern of a format that the grammar knows by its name, for text outside of JSON.
pub(in super::super) fn pattern(name: &str) -> Option<&'static str> {
    Some(match name {
        "hostname" => {
            r"^[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*$"
        }
        "ipv4" => {
            r"^(?:(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\.){3}(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])$"
        }
        // All written out, or shortened once.
        "ipv6" => {
            r"^(?:(?:[0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}|(?:[0-9a-fA-F]{1,4}:){1,6}:[0-9a-fA-F]{1,4}|::(?:[0-9a-fA-F]{1,4}:){0,5}[0-9a-fA-F]{1,4}|::)$"
        }
        "uuid" => r"^[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$",
        "uri" => {
            r"^[a-zA-Z][a-zA-Z0-9+.-]*:(?:[a-zA-Z0-9._~:/?@!$&'()*+,;=-]|%[0-9a-fA-F]{2})+(?:#(?:[a-zA-Z0-9._~:/?@!$&'()*+,;=-]|%[0-9a-fA-F]{2})*)?$"
        }
        _ => return None,
    })
}

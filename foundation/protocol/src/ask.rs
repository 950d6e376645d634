//! Questions with the type of their answer: what the kind of a request promises, the compiler holds both sides to.
//!
//! On the wire a request is one value of an enum of requests, and what comes back one of an enum of replies. Whoever asks
//! names a question, a type of its own, and has its [`Ask::Answer`].

/// A request of one kind.
pub trait Ask {
    type Request: serde::Serialize + Send + Sync;
    type Reply: Reply + serde::de::DeserializeOwned + Send;
    type Answer: Answer<Self::Reply>;

    fn into_request(self) -> Self::Request;
}

/// A type that one variant of `Reply` holds: the answer to some question.
pub trait Answer<Reply>: Sized {
    /// The reply itself when it answers something else.
    fn of(reply: Reply) -> Result<Self, Reply>;
}

/// The enum of everything that a daemon answers, refusals included.
pub trait Reply: Sized {
    /// Name of the daemon that replies, for people.
    const DAEMON: &'static str;

    /// The content of a refusal, which can take the place of any answer.
    type Refused;

    fn accepted(self) -> Result<Self, Self::Refused>;

    /// The name of its variant, for people.
    fn kind(&self) -> &'static str;
}

/// Error of [`answer`]: a refusal, or the reply to another question.
#[derive(Debug)]
pub enum NoAnswer<Refused> {
    Refused(Refused),
    /// It answers something else, of this kind: the two programs are of different versions.
    Other(&'static str),
}

/// The answer in a reply to such a question.
pub fn answer<Q: Ask>(reply: Q::Reply) -> Result<Q::Answer, NoAnswer<<Q::Reply as Reply>::Refused>> {
    let reply = reply.accepted().map_err(NoAnswer::Refused)?;
    Q::Answer::of(reply).map_err(|other| NoAnswer::Other(other.kind()))
}

/// `requests! { Request -> Reply; … }`: the enum of requests, of a list of questions with their answers, and a module
/// `questions` with a type for each that is an [`Ask`].
macro_rules! requests {
    (
        $(#[$about:meta])*
        $Request:ident -> $Reply:ident;
        $(
            $(#[$doc:meta])*
            $name:ident $(($inner:ty))? $({ $($field:ident: $type:ty),* $(,)? })? -> $answer:ty;
        )*
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "kebab-case", deny_unknown_fields)]
        pub enum $Request {
            $( $(#[$doc])* $name $(($inner))? $({ $($field: $type),* })?, )*
        }

        /// Each request as a type, with its answer.
        pub mod questions {
            use super::*;

            $( $crate::ask::question! { $Request; $(#[$doc])* $name $(($inner))? $({ $($field: $type),* })? } )*
        }

        // Out here, because a question and its answer may have one name.
        $(
            impl $crate::ask::Ask for questions::$name {
                type Request = $Request;
                type Reply = $Reply;
                type Answer = $answer;

                fn into_request(self) -> $Request {
                    self.into()
                }
            }
        )*
    };
}

macro_rules! question {
    ($Request:ident; $(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub struct $name;

        impl From<$name> for $Request {
            fn from(_: $name) -> Self {
                Self::$name
            }
        }
    };
    ($Request:ident; $(#[$doc:meta])* $name:ident ($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $name(pub $inner);

        impl From<$name> for $Request {
            fn from(question: $name) -> Self {
                Self::$name(question.0)
            }
        }
    };
    ($Request:ident; $(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $name { $(pub $field: $type),* }

        impl From<$name> for $Request {
            fn from(question: $name) -> Self {
                Self::$name { $($field: question.$field),* }
            }
        }
    };
}

/// `replies! { Reply of "daemon"; … }`: the enum of replies, of variants that hold one value each, and `Done` and
/// `Refused`. What a variant holds is an answer, and an `Option` of it is one too, which `Done` answers with `None`.
macro_rules! replies {
    (
        $Reply:ident of $daemon:literal;
        $( $(#[$doc:meta])* $variant:ident($answer:ty), )*
    ) => {
        #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "kebab-case", deny_unknown_fields)]
        pub enum $Reply {
            Done,
            Refused(edgewarden_names::Refusal),
            $( $(#[$doc])* $variant($answer), )*
        }

        impl $crate::ask::Reply for $Reply {
            const DAEMON: &'static str = $daemon;

            type Refused = edgewarden_names::Refusal;

            fn accepted(self) -> Result<Self, edgewarden_names::Refusal> {
                match self {
                    Self::Refused(refusal) => Err(refusal),
                    reply => Ok(reply),
                }
            }

            fn kind(&self) -> &'static str {
                match self {
                    Self::Done => "Done",
                    Self::Refused(_) => "Refused",
                    $( Self::$variant(_) => stringify!($variant), )*
                }
            }
        }

        impl $crate::ask::Answer<$Reply> for () {
            fn of(reply: $Reply) -> Result<Self, $Reply> {
                match reply {
                    $Reply::Done => Ok(()),
                    reply => Err(reply),
                }
            }
        }

        $(
            impl $crate::ask::Answer<$Reply> for $answer {
                fn of(reply: $Reply) -> Result<Self, $Reply> {
                    match reply {
                        $Reply::$variant(answer) => Ok(answer),
                        reply => Err(reply),
                    }
                }
            }

            impl $crate::ask::Answer<$Reply> for Option<$answer> {
                fn of(reply: $Reply) -> Result<Self, $Reply> {
                    match reply {
                        $Reply::$variant(answer) => Ok(Some(answer)),
                        $Reply::Done => Ok(None),
                        reply => Err(reply),
                    }
                }
            }
        )*
    };
}

pub(crate) use {question, replies, requests};

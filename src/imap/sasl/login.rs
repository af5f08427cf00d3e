//! AUTHENTICATE LOGIN, never standardised: two prompts, two answers. The answers are the bytes themselves, so all there
//! is to know are the prompts that clients expect.

/// What the client is asked first. Some clients look at the words.
pub const USER_PROMPT: &[u8] = b"Username:";
/// What it is asked then.
pub const PASSWORD_PROMPT: &[u8] = b"Password:";

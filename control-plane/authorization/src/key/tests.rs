use super::*;
use crate::claims::tests::{NOW, claims};

fn keys(key: &PublicKey) -> Keys {
    let mut keys = Keys::default();
    keys.trust(key.clone(), "billing".to_owned(), None, None).unwrap();
    keys
}

fn code_at(keys: &Keys, token: &str, now: Instant) -> String {
    let name = |error: Unauthorised| {
        let text = format!("{error:?}");
        text.split(|letter: char| !letter.is_alphanumeric()).next().unwrap().to_owned()
    };
    keys.verify(token, "edge-a", now).map_or_else(name, |_| "authorised".to_owned())
}

fn code(keys: &Keys, token: &str) -> String {
    code_at(keys, token, NOW)
}

#[test]
fn what_was_signed_is_what_is_read() {
    let (secret, public) = SecretKey::generate().unwrap();
    let token = secret.sign(&claims()).unwrap();
    assert!(token.starts_with("v4.public."), "{token}");
    let verified = Verified { claims: claims(), key_id: public.id().to_owned() };
    assert_eq!(keys(&public).verify(&token, "edge-a", NOW), Ok(verified));
    assert_eq!(unverified(&token), Ok((claims(), public.id().to_owned())));
    assert!(unverified("v4.public.AAAA").is_err());
}

#[test]
fn keys_are_written_and_read_as_paserk() {
    let (secret, public) = SecretKey::generate().unwrap();
    assert!(secret.reveal().starts_with("k4.secret."));
    assert!(public.to_string().starts_with("k4.public.") && public.id().starts_with("k4.pid."));
    let again = SecretKey::parse(&secret.reveal()).unwrap().public().unwrap();
    assert_eq!((again.to_string(), again.id()), (public.to_string(), public.id()));
    assert_eq!(PublicKey::parse(&format!(" {public}\n")).unwrap().id(), public.id());
    assert!(!format!("{secret:?}").contains("k4"), "{secret:?}");
    for wrong in ["", "k4.public.", "k4.public.AAAA", &secret.reveal()] {
        assert_eq!(PublicKey::parse(wrong).unwrap_err(), KeyError::Public(wrong.to_owned()));
    }
    assert_eq!(SecretKey::parse(&public.to_string()).unwrap_err(), KeyError::Secret);
    let mut keys = keys(&public);
    let twice = keys.trust(public.clone(), "other".to_owned(), None, None);
    assert_eq!(twice, Err(KeyError::Twice(public.id().to_owned())));
}

/// PASETO's own vector 4-S-2, whose footer names another key and whose payload is of another make: the signature is right, the rest is not ours.
#[test]
fn the_signature_is_that_of_the_standard() {
    let key = AsymmetricPublicKey::<V4>::from(&[
        0x1e, 0xb9, 0xdb, 0xbb, 0xbc, 0x04, 0x7c, 0x03, 0xfd, 0x70, 0x60, 0x4e, 0x00, 0x71, 0xf0, 0x98, 0x7e, 0x16,
        0xb2, 0x8b, 0x75, 0x72, 0x25, 0xc1, 0x1f, 0x00, 0x41, 0x5d, 0x0e, 0x20, 0xb1, 0xa2,
    ])
    .unwrap();
    let token = "v4.public.eyJkYXRhIjoidGhpcyBpcyBhIHNpZ25lZCBtZXNzYWdlIiwiZXhwIjoiMjAyMi0wMS0wMVQwMDowMDowMCswMDowMCJ9bg_XBBzds8lTZShVlwwKSgeKpLT3yukTw6JUz3W4h_ExsQV-P0V54zemZDcAxFaSeef1QlXEFtkqxT1ciiQEDA";
    let untrusted = UntrustedToken::<Public, V4>::try_from(token).unwrap();
    let trusted = PublicToken::verify(&key, &untrusted, None, None).unwrap();
    assert_eq!(trusted.payload(), r#"{"data":"this is a signed message","exp":"2022-01-01T00:00:00+00:00"}"#);
    assert_eq!(code(&keys(&PublicKey::of(key)), token), "Malformed");
}

#[test]
fn a_token_is_in_force_for_its_time_and_a_little_more() {
    let (secret, public) = SecretKey::generate().unwrap();
    let (token, keys) = (secret.sign(&claims()).unwrap(), keys(&public));
    let at = |now| code_at(&keys, &token, now);
    assert_eq!([at(Instant(NOW.0 - LEEWAY)), at(Instant(NOW.0 - LEEWAY - 1))], ["authorised", "NotYet"]);
    let end = claims().expires_at;
    assert_eq!([at(end.plus(LEEWAY)), at(end.plus(LEEWAY + 1))], ["authorised", "Expired"]);
    // One that says that it was signed later is of no use before.
    let late = secret.sign(&Claims { issued_at: NOW.plus(LEEWAY + 1), ..claims() }).unwrap();
    assert_eq!(code(&keys, &late), "NotYet");
}

#[test]
fn a_token_is_for_one_node_and_of_one_issuer_and_can_be_taken_back() {
    let (secret, public) = SecretKey::generate().unwrap();
    let mut keys = keys(&public);
    let signed = |claims| secret.sign(&claims).unwrap();
    assert_eq!(code(&keys, &signed(Claims { audience: "edge-b".to_owned(), ..claims() })), "WrongAudience");
    assert_eq!(code(&keys, &signed(Claims { issuer: "me".to_owned(), ..claims() })), "WrongIssuer");
    let token = signed(claims());
    keys.revoke("another".to_owned(), claims().id);
    assert_eq!(code(&keys, &token), "authorised");
    keys.revoke("billing".to_owned(), claims().id);
    assert_eq!(code(&keys, &token), "Revoked");
}

#[test]
fn keys_rotate() {
    let ((old, old_public), (new, new_public)) = (SecretKey::generate().unwrap(), SecretKey::generate().unwrap());
    let mut keys = Keys::default();
    let issuer = || "billing".to_owned();
    keys.trust(old_public, issuer(), None, Some(NOW.plus(100))).unwrap();
    keys.trust(new_public, issuer(), Some(NOW.plus(50)), None).unwrap();
    let tokens = [old, new].map(|key| key.sign(&claims()).unwrap());
    let at = |now| [code_at(&keys, &tokens[0], now), code_at(&keys, &tokens[1], now)];
    assert_eq!(at(NOW), ["authorised", "KeyNotInForce"]);
    assert_eq!(at(NOW.plus(50)), ["authorised", "authorised"]);
    assert_eq!(at(NOW.plus(100)), ["KeyNotInForce", "authorised"]);
    assert_eq!(code(&Keys::default(), &tokens[0]), "UnknownKey");
}

#[test]
fn a_key_can_be_taken_back_with_all_that_it_signed() {
    let ((old, old_public), (new, new_public)) = (SecretKey::generate().unwrap(), SecretKey::generate().unwrap());
    let mut keys = keys(&old_public);
    keys.trust(new_public, "billing".to_owned(), None, None).unwrap();
    let tokens = [old, new].map(|key| key.sign(&claims()).unwrap());
    assert_eq!(tokens.each_ref().map(|token| code(&keys, token)), ["authorised", "authorised"]);
    keys.revoke_key(old_public.id().to_owned());
    assert_eq!(tokens.each_ref().map(|token| code(&keys, token)), ["KeyRevoked", "authorised"]);
    assert!(keys.check_revoked("billing", "5b1f", old_public.id()).is_err());
}

#[test]
fn a_token_that_is_in_force_for_too_long_is_refused() {
    let (secret, public) = SecretKey::generate().unwrap();
    let mut keys = keys(&public);
    let token = secret.sign(&claims()).unwrap();
    keys.limit_validity(299);
    assert_eq!(code(&keys, &token), "ValidTooLong");
    keys.limit_validity(300);
    assert_eq!(code(&keys, &token), "authorised");
}

#[test]
fn what_is_changed_in_a_token_is_found() {
    let (secret, public) = SecretKey::generate().unwrap();
    let (token, keys) = (secret.sign(&claims()).unwrap(), keys(&public));
    for at in 0..token.len() {
        let mut forged = token.clone().into_bytes();
        forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
        let forged = String::from_utf8(forged).unwrap();
        assert_ne!(code(&keys, &forged), "authorised", "byte {at}");
    }
    // Signed by somebody else, who names the trusted key.
    let (stranger, _) = SecretKey::generate().unwrap();
    let footer = serde_json::to_vec(&Footer { kid: public.id().to_owned() }).unwrap();
    let payload = serde_json::to_vec(&claims()).unwrap();
    let forged = PublicToken::sign(&stranger.0, &payload, Some(&footer), None).unwrap();
    assert_eq!(code(&keys, &forged), "Forged");
}

#[test]
fn rubbish_is_refused() {
    let (secret, public) = SecretKey::generate().unwrap();
    let keys = keys(&public);
    let token = secret.sign(&claims()).unwrap();
    let long = format!("v4.public.{}", "A".repeat(TOKEN_BYTES_MAX));
    for wrong in ["", "v4.public.", "v3.public.AAAA", "v4.local.AAAA.AAAA", &token[..token.len() - 60], &long, "\u{0}"]
    {
        assert_eq!(code(&keys, wrong), "Malformed", "{wrong:?}");
    }
    let signed = |payload: &[u8]| {
        let footer = serde_json::to_vec(&Footer { kid: public.id().to_owned() }).unwrap();
        PublicToken::sign(&secret.0, payload, Some(&footer), None).unwrap()
    };
    for payload in ["{}", "[]", "nothing", r#"{"iss":1}"#] {
        assert_eq!(code(&keys, &signed(payload.as_bytes())), "Malformed", "{payload}");
    }
    let mut value = serde_json::to_value(claims()).unwrap();
    value["admin"] = true.into();
    assert_eq!(code(&keys, &signed(value.to_string().as_bytes())), "Malformed");
}

//! Tokens (JWT): which are let in, which are not and why, and how the published keys are kept.

use std::path::Path;

use serde_json::{Value, json};
use tests::hub::Answer;
use tests::places;
use tests::stage::{Centre, Setting, Stage, on_both};
use tests::tokens::{KeyServer, SECRET, Signer, encode, seconds_from_now};
use tests::wait;

const ISSUER: &str = "https://id.example/";
const AUDIENCE: &str = "demo-app";

/// Starts a stage whose hub takes tokens by the secret, and by published keys.
fn stage_with(setting: Setting<'_>, keys: &KeyServer) -> Stage {
    stage_at(setting, &keys.url(), None)
}

/// Starts a stage whose hub finds the keys at an address, and trusts the certificates of a file.
fn stage_at(setting: Setting<'_>, url: &str, certificates: Option<&Path>) -> Stage {
    let mut stage = Stage::new(setting);
    if let Some(path) = certificates {
        stage.hub.set_environment("SSL_CERT_FILE", &path.to_string_lossy());
    }
    let jwt = format!(
        "[database.jwt]\nsecret = \"{SECRET}\"\njwks_url = \"{}\"\nissuer = \"{ISSUER}\"\n\
         audience = \"{AUDIENCE}\"\nroles = [\"app\"]",
        url
    );
    stage.hub.configure(&stage.database, "trusted_proxies = [\"127.0.0.1\"]", &jwt);
    stage.play(&["hub: terminate", "hub: start"]);
    stage
}

/// The claims of a token that counts.
fn claims() -> Value {
    json!({ "iss": ISSUER, "aud": AUDIENCE, "exp": seconds_from_now(600), "sub": "u1", "role": "app" })
}

fn claims_with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn claims_without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().expect("claims are an object").remove(name);
    claims
}

/// Asks for changes without naming a site: whoever is let in is told that the header is missing.
fn ask(stage: &Stage, token: &str, address: &str) -> Answer {
    stage.hub.ask_as(token, address, "/changes")
}

#[track_caller]
fn check(stage: &Stage, token: &str, address: &str, status: u16, code: &str) {
    let answer = ask(stage, token, address);
    let problem: Value = serde_json::from_str(&answer.body).expect("a problem is told");
    assert_eq!((answer.status, problem["code"].as_str()), (status, Some(code)), "{answer:?}");
    assert!(token.len() < 8 || !answer.body.contains(token), "the token is not repeated: {answer:?}");
}

#[track_caller]
fn check_in(stage: &Stage, token: &str) {
    check(stage, token, "203.0.113.1", 400, "bad_request");
}

#[test]
fn a_token_counts_by_its_signature_and_its_claims() {
    on_both(|setting| {
        let signers = [Signer::rs256(), Signer::es256(), Signer::ed_dsa()];
        let published: Vec<Value> =
            signers.iter().map(|signer| signer.published(signer.algorithm())).collect();
        let keys = KeyServer::start(&published);
        let stage = stage_with(setting, &keys);
        let secret = Signer::secret();
        for signer in signers.iter().chain([&secret]) {
            let name = signer.algorithm();
            let token = |claims: &Value| signer.token(name, claims);
            check_in(&stage, &token(&claims()));
            check_in(&stage, &token(&claims_with("aud", json!(["other", AUDIENCE]))));
            check_in(&stage, &token(&claims_with("nbf", json!(seconds_from_now(-5)))));
            let from = "203.0.113.2";
            check(
                &stage,
                &token(&claims_with("exp", json!(seconds_from_now(-60)))),
                from,
                401,
                "token_expired",
            );
            for wrong in [
                claims_without("exp"),
                claims_with("exp", json!("tomorrow")),
                claims_with("nbf", json!(seconds_from_now(600))),
                claims_without("iss"),
                claims_with("iss", json!("https://other.example/")),
                claims_without("aud"),
                claims_with("aud", json!("other-app")),
                claims_with("aud", json!([])),
                claims_without("role"),
                claims_with("role", json!(["app"])),
                claims_with("note", json!({ "deep": ["a\u{0}b"] })),
            ] {
                check(&stage, &token(&wrong), from, 401, "unauthorized");
            }
            for role in ["postgres", "cloudsync", "cloudsync_owner", "service_role", "APP", "app ", ""] {
                check(&stage, &token(&claims_with("role", json!(role))), from, 403, "forbidden");
            }
        }
        // None of these was a guess, so the address may go on.
        check(&stage, &secret.token("", &claims()), "203.0.113.2", 400, "bad_request");
        assert_eq!(keys.asked(), 1, "the keys are asked for once");
    });
}

/// Shows forged tokens, each from an address of its own: so many guesses from one would be cut off.
fn check_forged(stage: &Stage, forged: &[String]) {
    for (number, token) in forged.iter().enumerate() {
        check(stage, token, &format!("198.51.100.{number}"), 401, "unauthorized");
    }
}

#[test]
fn a_forged_token_is_refused() {
    on_both(|setting| {
        let (es256, rs256) = (Signer::es256(), Signer::rs256());
        let keys =
            KeyServer::start(&[es256.published("e"), rs256.published("r"), Signer::secret().published("s")]);
        let stage = stage_with(setting, &keys);
        let real = es256.token("e", &claims());
        check_in(&stage, &real);
        let (message, signature) = real.rsplit_once('.').unwrap();
        let (head, body) = message.split_once('.').unwrap();
        let other = claims_with("sub", json!("u2")).to_string();
        let stranger = Signer::es256();
        let none = encode(br#"{"alg":"none","typ":"JWT"}"#);
        let by_public_key = |signer: &Signer| Signer::Hs256(signer.public_bytes());
        let header = |algorithm: &str, name: &str| json!({ "alg": algorithm, "kid": name });
        let embedded =
            json!({ "alg": "ES256", "kid": "e", "jwk": stranger.published("e"), "jku": keys.url() });
        let critical = json!({ "alg": "ES256", "kid": "e", "crit": ["exp"] });
        let twice = format!(
            r#"{{"iss":"{ISSUER}","aud":"{AUDIENCE}","exp":1,"exp":{},"role":"app"}}"#,
            seconds_from_now(600)
        );
        check_forged(
            &stage,
            &[
                format!("{head}.{}.{signature}", encode(other.as_bytes())),
                format!("{message}.{}", encode(&[0; 64])),
                format!("{message}."),
                message.to_owned(),
                format!("{none}.{body}."),
                format!("{none}.{body}.{signature}"),
                format!("{}.{body}.", encode(br#"{"alg":"nOnE"}"#)),
                stranger.token("e", &claims()),
                Signer::Hs256(b"another-secret-0123456789abcdefgh".to_vec()).token("s", &claims()),
                // The public key used as a secret, under both names of algorithms.
                by_public_key(&es256).token_with(&header("HS256", "e"), &claims()),
                by_public_key(&rs256).token_with(&header("HS256", "r"), &claims()),
                by_public_key(&rs256).token_with(&header("RS256", "r"), &claims()),
                Signer::secret().token_with(&header("ES256", "s"), &claims()),
                // A key for another algorithm than the token says.
                es256.token_with(&header("RS256", "e"), &claims()),
                es256.token_with(&header("EdDSA", "e"), &claims()),
                es256.token_with(&header("ES256", "r"), &claims()),
                es256.token_with(&header("ES384", "e"), &claims()),
                rs256.token_with(&header("PS256", "r"), &claims()),
                Signer::secret().token_with(&header("HS512", "s"), &claims()),
                // A key that the token brings along.
                stranger.token_with(&embedded, &claims()),
                es256.token_with(&critical, &claims()),
                es256.token_of(&header("ES256", "e").to_string(), &twice),
                es256.token_of(&header("ES256", "e").to_string(), "[]"),
                es256.token_of("{}", &claims().to_string()),
                es256.token_of("nonsense", "nonsense"),
                "..".to_owned(),
                format!("{real}.{signature}"),
                format!("{real}="),
            ],
        );
        check_in(&stage, &real);
    });
}

#[test]
fn keys_are_rotated_and_names_that_are_made_up_ask_for_nothing() {
    on_both(|setting| {
        let (first, second) = (Signer::es256(), Signer::es256());
        let keys = KeyServer::start(&[first.published("first")]);
        let stage = stage_with(setting, &keys);
        check_in(&stage, &first.token("first", &claims()));
        // The first unknown name may ask again, once within half a minute.
        keys.publish(&[second.published("second")]);
        for number in 0..10 {
            let made_up = second.token(&format!("made-up-{number}"), &claims());
            check(&stage, &made_up, "198.51.100.1", 401, "unauthorized");
        }
        assert!(keys.asked() <= 2, "asked {} times", keys.asked());
        wait::until("the new key counts", || {
            let answer = ask(&stage, &second.token("second", &claims()), "203.0.113.1");
            (answer.status == 400).then_some(())
        });
        check(&stage, &first.token("first", &claims()), "203.0.113.1", 401, "unauthorized");
        assert!(keys.asked() <= 4, "asked {} times", keys.asked());
    });
}

#[test]
fn a_service_that_is_away_is_waited_for() {
    on_both(|setting| {
        let signer = Signer::ed_dsa();
        let keys = KeyServer::start(&[]);
        let token = signer.token("key", &claims());
        for (status, body) in [(500, ""), (302, ""), (200, "no keys at all")] {
            keys.answer_with(status, body);
            let stage = stage_with(setting, &keys);
            check(&stage, &token, "203.0.113.1", 503, "unavailable");
            check(&stage, &token, "203.0.113.1", 503, "unavailable");
            keys.publish(&[signer.published("key")]);
            wait::until("the token counts", || {
                (ask(&stage, &token, "203.0.113.1").status == 400).then_some(())
            });
            // From now on it may be away again.
            keys.answer_with(500, "");
            check_in(&stage, &token);
            check_in(&stage, &signer.token("key", &claims_with("sub", json!("u2"))));
        }
    });
}

#[test]
fn keys_come_over_tls_from_a_service_whose_certificate_is_trusted_only() {
    let signer = Signer::es256();
    let folder = places::scratch("keys");
    let (url, _server) = KeyServer::start(&[signer.published("key")]).behind_tls(folder.path());
    let token = signer.token("key", &claims());
    let trusting = stage_at(Setting::PLAIN, &url, Some(&folder.path().join("tls.pem")));
    wait::until("the token counts", || (ask(&trusting, &token, "203.0.113.1").status == 400).then_some(()));
    let other = places::scratch("keys");
    let (_url, _other_server) = KeyServer::start(&[]).behind_tls(other.path());
    let doubting = stage_at(Setting::PLAIN, &url, Some(&other.path().join("tls.pem")));
    check(&doubting, &token, "203.0.113.1", 503, "unavailable");
    let log = doubting.hub.whole_log();
    assert!(log.contains("certificate"), "the log says why: {log}");
}

#[test]
fn who_guesses_too_often_has_to_wait_and_nobody_else() {
    on_both(|setting| {
        let keys = KeyServer::start(&[]);
        let stage = stage_with(setting, &keys);
        let secret = Signer::secret();
        let (known, fresh) =
            (secret.token("", &claims()), secret.token("", &claims_with("sub", json!("u2"))));
        let guesser = "2001:db8:1:2::1";
        check(&stage, &known, guesser, 400, "bad_request");
        wait::until("guesses are cut off", || {
            let guess = Signer::Hs256(b"guess".to_vec()).token("", &claims());
            (ask(&stage, &guess, "2001:db8:1:2::2").status == 429).then_some(())
        });
        let answer = ask(&stage, &fresh, "2001:db8:1:2::3");
        // One more failure is forgiven every few seconds, so this may be the moment.
        assert!([429, 400].contains(&answer.status), "{answer:?}");
        check(&stage, &known, guesser, 400, "bad_request");
        check(&stage, &fresh, "2001:db8:1:3::1", 400, "bad_request");
        // Expired tokens are no guesses.
        let expired = secret.token("", &claims_with("exp", json!(seconds_from_now(-60))));
        for _ in 0..30 {
            check(&stage, &expired, "203.0.113.5", 401, "token_expired");
        }
        assert!(stage.hub.metric("cloudsync_auth_failures_total") >= 50.0);
    });
}

#[test]
fn a_client_of_a_file_syncs_by_its_token_and_reads_what_is_its_own() {
    let keys = KeyServer::start(&[]);
    let mut stage = stage_with(Setting { centre: Centre::SqliteFile, ..Setting::PLAIN }, &keys);
    stage.play(&[
        "pg: select cloudsync_set_scope('todo', 'note')",
        "pg: insert into todo values ('of-u1', 'mine', 'u1', 0), ('of-u2', 'theirs', 'u2', 0)",
    ]);
    let client = stage.stranger("phone");
    let secret = Signer::secret();
    client.run(&format!("select cloudsync_network_init('{}')", stage.hub.address()));
    let expired = secret.token("", &claims_with("exp", json!(seconds_from_now(-60))));
    client.run(&format!("select cloudsync_network_set_token('{expired}')"));
    client.run("insert into todo values ('new', 'written here', 'u1', 0)");
    let refused = client.try_sync().expect_err("an expired token is refused");
    assert!(refused.contains("token_expired") && !refused.contains(&expired), "{refused}");
    client.run(&format!("select cloudsync_network_set_token('{}')", secret.token("", &claims())));
    wait::until("it has what is its own", || {
        let rows = client.try_sync().map(|_| client.rows("select id from todo order by id"));
        (rows == Ok(vec!["new".to_owned(), "of-u1".to_owned()])).then_some(())
    });
    assert_eq!(stage.postgres.rows("select id from todo order by id"), ["new", "of-u1", "of-u2"]);
}

#[test]
fn a_client_syncs_by_its_token_as_the_user_that_it_names() {
    let keys = KeyServer::start(&[]);
    let mut stage = stage_with(Setting::PLAIN, &keys);
    stage.play(&[
        "pg: alter table todo enable row level security;
             create policy own on todo to app
             using (note = current_setting('request.jwt.claims')::jsonb ->> 'sub')
             with check (note = current_setting('request.jwt.claims')::jsonb ->> 'sub')",
        "pg: insert into todo values ('of-u2', 'theirs', 'u2', 0)",
    ]);
    let client = stage.stranger("phone");
    let secret = Signer::secret();
    client.run(&format!("select cloudsync_network_init('{}')", stage.hub.address()));
    let expired = secret.token("", &claims_with("exp", json!(seconds_from_now(-60))));
    client.run(&format!("select cloudsync_network_set_token('{expired}')"));
    client.run("insert into todo values ('mine', 'mine', 'u1', 0), ('forged', 'forged', 'u2', 0)");
    let refused = client.try_sync().expect_err("an expired token is refused");
    assert!(refused.contains("token_expired") && !refused.contains(&expired), "{refused}");
    client.run(&format!("select cloudsync_network_set_token('{}')", secret.token("", &claims())));
    let answer = client.sync();
    assert!(answer.contains("\"rejected\":1"), "{answer}");
    assert_eq!(stage.postgres.rows("select id, note from todo order by id"), ["mine|u1", "of-u2|u2"]);
    assert_eq!(client.rows("select key, sqlstate from cloudsync_rejected"), ["[\"forged\"]|42501"]);
}

//! Signatures of adapters: asked for where those of models are.

use std::fs;

use v4_trust::{
    AdapterFiles, Keys, Policy, SecretKey, TrustError, adapter_manifest, check_adapter,
    measure_adapter, new_key_pair, sign,
};

#[test]
fn an_adapter_is_what_was_signed_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let error = measure_adapter(at).unwrap_err();
    assert!(matches!(error, TrustError::Io { .. }), "{error}");
    fs::write(at.join("adapter_config.json"), "{}").unwrap();
    fs::write(at.join("adapter_model.safetensors"), "weights").unwrap();
    let hashes = measure_adapter(at).unwrap();
    let text = adapter_manifest(&hashes);
    // As b3sum prints and checks it.
    let expected = format!(
        "{}  adapter_config.json\n{}  adapter_model.safetensors\n",
        blake3::hash(b"{}"),
        blake3::hash(b"weights")
    );
    assert_eq!(text, expected);

    let nothing = Policy::default();
    assert_eq!(check_adapter(at, &hashes, &nothing).unwrap(), None);
    let signed = Policy {
        require_signed: true,
        ..Policy::default()
    };
    let error = check_adapter(at, &hashes, &signed).unwrap_err();
    assert!(matches!(error, TrustError::NoKeys { .. }), "{error}");

    let (public, secret) = new_key_pair(None).unwrap();
    let secret_file = at.join("k.key");
    fs::write(&secret_file, secret).unwrap();
    let key = SecretKey::read(&secret_file, None).unwrap();
    let mut keys = Keys::default();
    keys.add(public.lines().nth(1).unwrap()).unwrap();
    // Keys alone ask for a signature too.
    let asked = Policy {
        keys,
        ..Policy::default()
    };
    let files = AdapterFiles::of(at);
    for path in [&files.manifest, &files.signature] {
        match check_adapter(at, &hashes, &asked).unwrap_err() {
            TrustError::Unsigned { path: missing, .. } => assert_eq!(&missing, path),
            other => panic!("{other}"),
        }
        fs::write(path, &text).unwrap();
    }
    let signature = sign(text.as_bytes(), &key, "an adapter").unwrap();
    fs::write(&files.signature, signature).unwrap();
    let signer = check_adapter(at, &hashes, &asked).unwrap().unwrap();
    assert_eq!(signer.comment, "an adapter");
    let required = Policy {
        require_signed: true,
        ..asked.clone()
    };
    assert!(check_adapter(at, &hashes, &required).unwrap().is_some());

    let mut other = hashes;
    other[1][0] ^= 1;
    let error = check_adapter(at, &other, &asked).unwrap_err();
    assert!(matches!(error, TrustError::Adapter { .. }) && error.is_altered());

    for (bytes, fits) in [(4096, true), (4097, false)] {
        fs::write(&files.manifest, vec![b'x'; bytes]).unwrap();
        let error = check_adapter(at, &hashes, &asked).unwrap_err();
        assert_eq!(
            matches!(error, TrustError::TooLong { .. }),
            !fits,
            "{error}"
        );
        assert_eq!(matches!(error, TrustError::BadSignature { .. }), fits);
    }
}

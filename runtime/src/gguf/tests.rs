use super::*;

#[test]
fn an_empty_table_round_trips() {
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "deepseek4");
    let bytes = encode_header(&metadata, &[], PAGE_ALIGNMENT).unwrap();
    assert_eq!(bytes.len(), 4096);
    let header = parse_header(&bytes, 4096).unwrap();
    assert_eq!(header.alignment, PAGE_ALIGNMENT);
    assert_eq!(
        header.metadata.get_str("general.architecture").unwrap(),
        "deepseek4"
    );
}

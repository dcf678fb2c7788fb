use super::*;

#[test]
fn text_cannot_become_markup() {
    assert_eq!(markdown_text("a|b\n<c> @team &"), "a\\|b \\<c\\> \\@team &amp;");
}

//! Chinese names of what a training prints, which many write in their own loops.

use std::borrow::Cow;

use memchr::memmem;

/// What stands in every line that is looked at: loss.
pub(super) const LOSS: &str = "损失";

/// Names in parts, the longer before those within them.
const WORDS: [(&str, &str); 17] = [
    ("训练", "train "),
    ("验证", "val "),
    ("测试", "test "),
    ("最佳", "best "),
    ("最优", "best "),
    ("最低", "best "),
    ("最小", "best "),
    ("平均", "avg "),
    ("总", "total "),
    ("集", ""),
    ("损失值", "loss"),
    (LOSS, "loss"),
    ("学习率", "lr"),
    ("轮次", "epoch"),
    ("第", "epoch "),
    ("轮", ""),
    ("：", ": "),
];

/// The line with those names in English; as it is when it speaks of no loss.
pub(super) fn in_english(line: &[u8]) -> Cow<'_, [u8]> {
    if memmem::find(line, LOSS.as_bytes()).is_none() {
        return Cow::Borrowed(line);
    }
    let mut text = String::from_utf8_lossy(line).into_owned();
    for (word, english) in WORDS {
        text = text.replace(word, english);
    }
    Cow::Owned(text.into_bytes())
}

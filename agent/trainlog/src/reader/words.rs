//! Chinese names of what a training prints, which many write in their own loops.

use std::borrow::Cow;

use memchr::memmem;

/// What stands in every line that is looked at: loss.
pub(super) const LOSS: &str = "损失";

/// Names in parts, the longer before those within them.
const WORDS: [(&str, &str); 16] = [
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
    ("轮", ""),
    ("：", ": "),
];

/// The line with those names in English; as it is when it speaks of no loss.
pub(super) fn in_english(line: &[u8]) -> Cow<'_, [u8]> {
    if memmem::find(line, LOSS.as_bytes()).is_none() {
        return Cow::Borrowed(line);
    }
    let mut text = ordinals(&String::from_utf8_lossy(line));
    for (word, english) in WORDS {
        text = text.replace(word, english);
    }
    Cow::Owned(text.into_bytes())
}

/// `第 3 轮` is an epoch, `第 100 步` a step, `第 2 折` a part of the data that is left out in turn.
fn ordinals(text: &str) -> String {
    let mut parts = text.split('第');
    let mut told = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let counted = part
            .trim_start_matches(|sign: char| sign.is_ascii_digit() || matches!(sign, ' ' | '/'));
        told.push_str(match counted.chars().next() {
            Some('步') => "step ",
            Some('批') => "batch ",
            Some('折' | '层' | '张' | '行') => "",
            _ => "epoch ",
        });
        told.push_str(part);
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinals_say_what_they_count() {
        for (line, expected) in [
            ("第 1/50 轮, 损失: 0.5", "epoch  1/50 , loss: 0.5"),
            ("第2轮 第100步 损失: 0.5", "epoch 2 step 100步 loss: 0.5"),
            ("第 2 折 损失: 0.5", " 2 折 loss: 0.5"),
            ("第 3 轮", "第 3 轮"),
        ] {
            assert_eq!(in_english(line.as_bytes()), expected.as_bytes(), "{line}");
        }
    }
}

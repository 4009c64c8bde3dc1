//! Markup as it is built (pure). Names of elements and attributes are ours and known when this is compiled; every text and every value
//! of an attribute is cleaned and escaped on its way in, so that nothing that others wrote can become markup.

use quick_xml::{
    Writer,
    events::{BytesEnd, BytesStart, BytesText, Event},
};

use crate::ui::sanitize;

/// Elements that have neither content nor an end.
const VOID: [&str; 2] = ["meta", "br"];

/// A document, or a part of one.
pub(super) struct Markup {
    out: Writer<Vec<u8>>,
}

/// An attribute.
pub(super) type Attribute<'a> = (&'static str, &'a str);

impl Markup {
    /// Nothing so far.
    pub(super) fn new() -> Self {
        Self {
            out: Writer::new(Vec::new()),
        }
    }

    /// An element with what is in it.
    pub(super) fn element(
        &mut self,
        name: &'static str,
        attributes: &[Attribute<'_>],
        inner: impl FnOnce(&mut Self),
    ) {
        let mut start = BytesStart::new(name);
        let clean: Vec<(&str, String)> = attributes
            .iter()
            .map(|(name, value)| (*name, sanitize::line(value).into_owned()))
            .collect();
        for (name, value) in &clean {
            start.push_attribute((*name, value.as_str()));
        }
        if VOID.contains(&name) {
            self.write(Event::Empty(start));
            return;
        }
        self.write(Event::Start(start));
        inner(self);
        self.write(Event::End(BytesEnd::new(name)));
    }

    /// An element with nothing in it.
    pub(super) fn empty(&mut self, name: &'static str, attributes: &[Attribute<'_>]) {
        self.element(name, attributes, |_| {});
    }

    /// An element with a text in it.
    pub(super) fn words(
        &mut self,
        name: &'static str,
        attributes: &[Attribute<'_>],
        text: impl AsRef<str>,
    ) {
        self.element(name, attributes, |inner| inner.text(text.as_ref()));
    }

    /// A text, whoever wrote it.
    pub(super) fn text(&mut self, text: &str) {
        self.write(Event::Text(BytesText::new(&sanitize::text(text))));
    }

    /// The one text that stands as it is: our own style sheet, in which nothing needs escaping.
    pub(super) fn style(&mut self, css: &'static str) {
        debug_assert!(!css.contains(['<', '&']), "it would end the element");
        self.element("style", &[], |inner| {
            inner.write(Event::Text(BytesText::from_escaped(css)));
        });
    }

    fn write(&mut self, event: Event<'_>) {
        self.out.write_event(event).expect("a Vec takes everything");
    }

    /// What was built.
    pub(super) fn finish(self) -> String {
        String::from_utf8(self.out.into_inner()).expect("only text was written")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_others_wrote_stays_text() {
        let mut page = Markup::new();
        let hostile = "\"><script>alert('x')</script>&amp;\u{1b}[31m\u{202e}";
        page.element("td", &[("title", hostile), ("class", "a")], |cell| {
            cell.text(hostile);
            cell.empty("meta", &[("charset", "utf-8")]);
            cell.empty("i", &[]);
        });
        assert_eq!(
            page.finish(),
            "<td title=\"&quot;&gt;&lt;script&gt;alert(&apos;x&apos;)&lt;/script&gt;&amp;amp;\" class=\"a\">\
             &quot;&gt;&lt;script&gt;alert(&apos;x&apos;)&lt;/script&gt;&amp;amp;<meta charset=\"utf-8\"/><i></i></td>"
        );
    }
}

//! Lines, and the pairs that are found in them.

use super::*;

fn check(line: &str, expected: &str) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let got: Vec<String> = Scanner::new(line.as_bytes())
        .map(|pair| {
            let of = pair
                .of
                .map_or_else(String::new, |of| format!("/{}", text(of)));
            let note = if pair.note.is_empty() {
                String::new()
            } else {
                format!("({})", text(pair.note))
            };
            let name = text(pair.name);
            let value = text(pair.value);
            format!("{name}{note}={value}{of}{}", text(pair.unit))
        })
        .collect();
    assert_eq!(got.join("; "), expected, "{line}");
}

#[test]
fn names_numbers_and_units_are_found() {
    check("{'loss': 2.5, 'lr': '1e-3'}", "loss=2.5; lr=1e-3");
    check(
        "iter 100: loss 2.5, time 12.5ms, mfu 3%",
        "iter=100; loss=2.5; time=12.5ms; mfu=3%",
    );
    check(
        "step 50/4000 (1%) | val loss 2.9 | 3.5 ms/step | 1,184 tok/s",
        "step=50/4000; =1%; val loss=2.9; =3.5ms/step; =1,184tok/s",
    );
    check("lr=[5e-05, 6e-05] x", "lr=5e-05; =6e-05");
    check("at 12.3k tok/s, eta 5", "at=12.3k tok/s; eta=5");
    check("'speed(iter/s)': 0.5, (a)=2", "iter/s=0.5; a=2");
    check("norm=1 samples/s=2 s: 3", "norm=1; samples/s=2; s=3");
    check("a.b-c: 1 - tok/sec: 277,786", "a.b-c=1; tok/sec=277,786");
    check(
        "elapsed time per iteration (ms): 849.6 | lm loss: 1.0E+01",
        "elapsed time per iteration(ms)=849.6; lm loss=1.0E+01",
    );
    check("loss: tensor(2.5, device='cuda:0')", "loss=2.5; cuda=0");
    check("iter 7: loss nan, lr inf", "iter=7; loss=nan; lr=inf");
    check("step:15K epch:27.38", "step=15K; epch=27.38");
}

#[test]
fn positions_in_brackets_are_found() {
    check("Epoch: [0][   0/1563]", "Epoch=0; =0/1563");
    check("Iter(train) [ 10/720]  lr: 2", "Iter(train)=10/720; lr=2");
    check("Epoch [3/10], Step [100/600]", "Epoch=3/10; Step=100/600");
    check(
        "Train Epoch: 1 [640/60000 (1%)]",
        "Train Epoch=1; =640/60000; =1%",
    );
    check("[10]\ttrain-rmse:0.5", "=10; train-rmse=0.5");
    check("[1,  2000] loss: 2", "=1; =2000; loss=2");
    check("INFO:root:[1,  250/ 2562] - x: 2", "=1; =250/2562; x=2");
    check("[1,0]<stdout>:loss: 2", "=1; =0; loss=2");
    check("shape [64, 128] x: 2", "=64; =128; x=2");
    check("[12/22 19:59:55] eta: 5", "=12/22; =19; =59; =55; eta=5");
    check(
        "epoch 001:    100 / 2000 loss=1",
        "epoch=001; =100/2000; loss=1",
    );
}

#[test]
fn other_text_has_no_named_numbers() {
    for line in [
        "",
        "no number",
        "loss: none",
        "- . + -",
        "loss:",
        "loss =",
        "caf\u{e9} \u{2588}",
    ] {
        check(line, "");
    }
}

#[test]
fn words_of_evaluation_count_when_they_stand_alone() {
    for (line, expected) in [
        ("| valid | loss 2", true),
        ("val loss: 2", false),
        ("Evaluating step 5", false),
        ("evaluating. step 5", true),
        ("train | loss 2", false),
    ] {
        let mut scanner = Scanner::new(line.as_bytes());
        while scanner.next().is_some() {}
        assert_eq!(scanner.evaluation(), expected, "{line}");
    }
}

//! The networks that come with the program, but `resnet50`, which is too large: each learns a few images of the built-in sample.

use fqt_runtime::session::Mode;
use fqtc::types::real;

use crate::support::runs;

/// Trains on the same images again and again: mean loss of the first and the last steps.
fn losses(file: &str, words: &str, steps: u64) -> (f64, f64) {
    let compiled = runs::compiled(file, words);
    let batch = compiled.artifact.batch as usize;
    let data = runs::images(&compiled, 2 * batch);
    let best = runs::targets_here().pop().unwrap();
    let mut session = runs::session(&compiled, best, 2);
    session.start(3, &data.mean_pixel(), steps);
    let mut losses = vec![];
    for step in 0..steps as usize {
        let first = step % 2 * batch;
        let samples: Vec<u32> = (first..first + batch).map(|i| i as u32).collect();
        session.load(&data.train, &samples, None);
        session.run(Mode::Train);
        let tally = session.tally(batch);
        losses.push(tally.loss as f64 / 65536.0 / batch as f64);
    }
    let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len() as f64;
    (mean(&losses[..2]), mean(&losses[losses.len() - 4..]))
}

/// The value of a key in a line of Python: `"lr": 0.02` in a dictionary, or the default of `"--lr"`.
fn python_value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let after = text.split_once(key)?.1;
    Some(after.split([',', '}', ')']).next()?.trim())
}

/// PyTorch's runs are a baseline only with the settings of the model files.
#[test]
fn the_script_for_pytorch_trains_with_the_settings_of_the_models() {
    let script = std::fs::read_to_string("tests/bench/pytorch.py").unwrap();
    let line = |start: &str| script.lines().find(|line| line.starts_with(start)).unwrap_or_default();
    let networks =
        line("NETWORKS = [").split('"').filter(|word| word.chars().all(|c| c.is_alphanumeric() || c == '_'));
    let mut compared = 0;
    for name in networks.filter(|word| !word.is_empty()) {
        let own = line(&format!("    \"{name}\": {{\"")).to_owned();
        let setting = |key: &str| -> f64 {
            let flag = format!("parser.add_argument(\"--{}\"", key.replace('_', "-"));
            let arguments =
                script.lines().find(|line| line.replace("training.", "parser.").starts_with(&flag));
            let value = python_value(&own, &format!("\"{key}\":"))
                .or_else(|| python_value(arguments.unwrap(), "default="));
            value.unwrap().parse().unwrap()
        };
        let training = runs::compiled(&format!("{name}.fqt"), "--batch 4").module.training;
        let (optimizer, schedule) = (&training.optimizer.1, &training.schedule);
        assert_eq!((training.optimizer.0.as_str(), schedule.0.as_str()), ("sgd", "cosine"), "{name}");
        for key in ["lr", "momentum", "weight_decay"] {
            assert_eq!(setting(key), real(optimizer, key), "{name}, {key}");
        }
        assert_eq!(setting("warmup_epochs"), real(&schedule.1, "warmup"), "{name}, warm-up");
        assert_eq!(own.contains("\"no_augment\": True"), training.augment.is_empty(), "{name}, augmentation");
        compared += 1;
    }
    assert_eq!(compared, 6);
}

#[test]
fn small_models_learn_what_they_see() {
    for file in ["mlp.fqt", "lenet5.fqt", "resnet8.fqt", "resnet20.fqt", "plain20.fqt", "resnet32.fqt"] {
        let (before, after) = losses(file, "--batch 8 --gbits 4 --lr 0.01 schedule=constant", 24);
        assert!(after < 0.8 * before, "{file}: loss from {before} to {after}");
    }
}

#[test]
fn wide_models_learn_what_they_see() {
    for file in ["vgg_small.fqt", "mobilenet_v2.fqt"] {
        let (before, after) = losses(file, "--batch 8 --gbits 4 --lr 0.02 schedule=constant", 16);
        assert!(after < 0.8 * before, "{file}: loss from {before} to {after}");
    }
}

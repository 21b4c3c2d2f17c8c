//! Passes on whole models.

use fqtc::ir::{Stage, print::print};
use fqtc::passes;

use crate::modules;

#[test]
fn every_pass_is_at_rest_on_its_own_result() {
    for module in [
        modules::resnet(2, 8, 4, "stochastic"),
        modules::lenet(2, 12, "nearest"),
        modules::mlp(2, 4, "nearest"),
    ] {
        passes::run(module, Stage::Bits, |pass, module| {
            if pass.needs == pass.gives {
                let again = pass.run(module.clone()).unwrap();
                assert_eq!(print(&again), print(module), "{}", pass.name);
            }
        })
        .unwrap();
    }
}

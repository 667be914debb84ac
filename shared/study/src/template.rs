//! The commented `study.toml` that `consilium study new` writes.

use crate::hash::Hash;
use crate::name::{SiteName, StudyName};

/// A complete study with every key explained. It passes every check as soon as `sites` names at least
/// three sites; with fewer, the check says so.
pub fn study_toml(name: &StudyName, sites: &[SiteName]) -> String {
    let listed: Vec<String> = sites.iter().map(|site| format!("\"{site}\"")).collect();
    let quorum = sites.len().saturating_sub(1).max(3);
    TEMPLATE
        .replace("{name}", name.as_str())
        .replace("{sites}", &listed.join(", "))
        .replace("{seed}", &format!("{:<28}", seed(name)))
        .replace("{quorum}", &quorum.to_string())
}

/// A seed of its own for each study: two that start from the same model ask persons before they open it twice.
fn seed(name: &StudyName) -> u32 {
    let hash = Hash::labelled("template-seed", name.as_str().as_bytes());
    hash.as_bytes().iter().take(3).fold(0, |number, byte| (number << 8) | u32::from(*byte))
}

const TEMPLATE: &str = r#"# A study: what the hospitals agree to, word by word. It holds data, never code.
# Check it with `consilium study check FILE`; nothing is sent before `consilium study propose FILE`.
# Unknown keys are errors. Keys with a # before them are optional and show their default.

format = 1
name = "{name}"                      # a-z, 0-9 and '-'; unique in the consortium
title = "One line that says what is asked"
sites = [{sites}]                    # at least 3; the protection is computed over this list
seed = {seed}  # every pseudo-random choice starts here

[data]                               # what a case is
labels = ["normal", "pneumonia"]     # the position is the class number
channels = 1                         # 1 for grey, 3 for colour; depth = 28 beside it for volumes of 28 grey slices
height = 28                          # images are brought to this size
width = 28
mean = 0.57                          # pixel values lie between 0 and 1; each becomes (x - mean) / std
std = 0.17
# In place of these five, where cases are rows of a table (13 laboratory values, say): what is taken from each row, as
#     inputs = [{ column = "age", mean = 53.0, std = 9.6 }, { column = "pain", is = "4" }]: (age - 53) / 9.6, and 1 or 0
# Or beside these five: then such a row of numbers lies beside each picture, in the columns of the table that names its file
# task = "classification"            # each case has one label; or "ordinal": labels are grades in ascending order;
#     or "multi-label": a case has any number of them, which are findings (in a table: effusion|nodule, or none);
#     or "segmentation": each picture has a mask, labels are classes of its pixels and the first is the background (preset = "unet2d");
#     or "regression": each case has a number between the ends of range = [0.0, 120.0], and labels is its name alone
# holdout = 0.2                      # share of patients held out, where the source has no split of its own
# minimum_cases = 10                 # a site with fewer labelled, usable cases does not upload
# smallest_usable_share = 0.9        # a site with a smaller share of usable items sits the round out

[model]                              # a preset, or [[model.layers]] one by one; docs/consortium.md lists both
preset = "small-cnn"                 # logistic, mlp, small-cnn, cnn-bn, resnet18, resnet34, resnet50, densenet121, unet2d
# Where they apply: norm = "group" or "batch"; stem = "small", or "imagenet" for images of about 224 pixels a side.
# frozen = []                        # layers that stay as in the initial model and are not sent, by name ("layers.0") or kind ("conv2d")
# local = []                         # layers that each site trains for itself and keeps: ["batch-norm"] is FedBN

[training]                           # how a site trains in each round
optimiser = "adam"                   # adam, adamw, sgd
learning_rate = 0.001
batch = 32
epochs = 1                           # or steps = N: as much work for a large site as for a small one
# weight_decay = 0.0
# schedule = "constant"              # or "cosine", or { step = { every = 5, factor = 0.5 } }, over the whole study,
#     or { milestones = { at = [0.5, 0.75], factor = 0.1 } }: after half and three quarters of all rounds
# sampling = "shuffled"              # every case once an epoch; or "balanced": each class of a hospital equally often
# loss = "cross-entropy"             # or { kind = "focal", gamma = 2.0 }: what is told apart already counts little;
#     or, of grades, "earth-mover": a grade further from the true one costs more; or, of masks, "dice-cross-entropy";
#     of numbers "squared-error", "absolute-error" or { kind = "huber", delta = 0.1 }
# label_smoothing = 0.0              # share of a label that is spread over all classes; 0.1 is usual
# augment = { flip = false, crop = 0, rotate = 0.0, zoom = 0.0, brightness = 0.0, contrast = 0.0, noise = 0.0, erase = 0, mixup = 0.0 }
#     mirror; shift by up to so many pixels; turn by up to so many degrees; enlarge by up to 1 +- zoom; brightness, contrast
#     and noise (a standard deviation) with pixel values in 0 to 1; blank a square of so many pixels; mix cases (0.2 is usual)

[rounds]
count = 10                           # rounds of training
#     patience = 5 ends the study early, when so many rounds in a row have not made `evaluation.recommend` better
quorum = {quorum}                           # fewest sites that a round may end with; the protocol may ask for more
# required = []                      # sites without which no round starts
# collect_timeout = "2h"             # how long sites may take to return an update
# evaluate_timeout = "30m"           # how long they may take to return evaluation counts
# setup_timeout = "10m"              # how long a site may take to settle keys with the others
# attempts_per_epoch = 100           # new keys after so many attempts, at most 100
# strategy = { kind = "fedavg", server_learning_rate = 1.0 }  # how far the next model follows the mean update
#     or { kind = "fedprox", mu = 0.01 }: sites whose cases differ stay closer to the model they start from,
#     or { kind = "fedavgm", server_momentum = 0.9 }: the next model goes on where the last rounds went,
#     or { kind = "fedadam", server_learning_rate = 0.03 } (fedyogi, fedadagrad): small changes go as far as large ones,
#     or { kind = "scaffold" }: sites correct each step by what the others' gradients say (plain sgd, and `steps`)

[aggregation]
# clip_norm = 10.0                   # bound on the L2 norm of one site's update
# weight = "coarse"                  # coarse (cases as a power of two), effective (less with few of a class), examples, equal
# weight_cap = 4096                  # smallest power of two above the training cases of the largest site
# min_honest = 2                     # honest sites behind any opened sum; from five sites on the default is 3
# ring_bits = 32                     # or 16, for slow links: half the bytes up, updates rounded more coarsely
# From 24 sites on, a robust rule over sums of groups instead of one sum (each site has to allow it), for example:
#     groups = { count = 3, combine = "median" }, or { count = 5, combine = "trimmed-mean", trim = 1 }

[evaluation]
# bins = 256                         # resolution of the score histograms behind AUROC
# operating_point = 0.5              # probability from which a case counts as positive
# recommend = "auroc"                # loss, auroc, accuracy, balanced_accuracy, sensitivity, specificity, brier, ece, kappa
# calibrate = false                  # true: the temperature at which probabilities say what they mean is fitted by all sites
# A model is refused that loses more than max_loss_increase, or whose update is more than max_norm_growth times as long as
# the last ones: one bad hospital among eight must not get its way. Without the line nothing is refused for that.
gate = { max_loss_increase = 0.05, max_norm_growth = 1.5 }
"#;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Draft;

    fn name(text: &str) -> SiteName {
        text.parse().unwrap()
    }

    #[test]
    fn the_template_is_a_study() {
        let sites = [name("b"), name("a"), name("c"), name("d")];
        let draft = Draft::from_toml(&study_toml(&"lungs".parse().unwrap(), &sites)).unwrap();
        assert_eq!(draft.name.as_str(), "lungs");
        assert_eq!(draft.rounds.quorum, 3);
    }

    #[test]
    fn the_defaults_in_its_comments_are_the_defaults() {
        let sites = [name("a"), name("b"), name("c"), name("d")];
        let plain = study_toml(&"lungs".parse().unwrap(), &sites);
        let spelt: String = plain
            .lines()
            .map(|line| {
                // `# key = value` in a section; prose has no such shape.
                let key = line.strip_prefix("# ");
                key.filter(|rest| rest.split(' ').nth(1) == Some("=")).unwrap_or(line).to_owned() + "\n"
            })
            .collect();
        assert_ne!(spelt, plain);
        assert_eq!(Draft::from_toml(&spelt), Draft::from_toml(&plain));
    }

    #[test]
    fn without_sites_the_check_says_so() {
        let error = Draft::from_toml(&study_toml(&"lungs".parse().unwrap(), &[])).unwrap_err();
        assert!(error.problems().iter().any(|problem| problem.key() == "sites"), "{error}");
    }
}

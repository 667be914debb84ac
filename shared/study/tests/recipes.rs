//! Recipes from file to signed bytes and back.

use consilium_study::canonical::Canonical as _;
use consilium_study::recipe::Training;
use proptest::prelude::*;

prop_compose! {
    /// A recipe with what came later drawn, each with a good chance of its default.
    fn recipes()(
        (rotate, zoom) in (zero_or(180.0), zero_or(0.5)),
        (brightness, contrast, noise) in (zero_or(1.0), zero_or(1.0), zero_or(1.0)),
        mixup in prop_oneof![Just(0.0), 0.05..4.0_f64],
        (flip, crop, erase) in (any::<bool>(), 0_u32..8, 0_u32..8),
        sampling in prop::sample::select(vec!["shuffled", "balanced"]),
        loss in prop_oneof![
            Just("\"cross-entropy\"".to_owned()),
            (0.01..10.0_f64).prop_map(|gamma| format!("{{ kind = \"focal\", gamma = {gamma:?} }}")),
        ],
        smoothing in zero_or(0.9),
    ) -> String {
        let smoothing = if loss.contains("focal") { 0.0 } else { smoothing };
        format!(
            "optimiser = \"adam\"\nlearning_rate = 0.1\nbatch = 32\nepochs = 1\nsampling = \"{sampling}\"\nloss = {loss}\n\
             label_smoothing = {smoothing:?}\naugment = {{ flip = {flip}, crop = {crop}, rotate = {rotate:?}, \
             zoom = {zoom:?}, brightness = {brightness:?}, contrast = {contrast:?}, noise = {noise:?}, \
             erase = {erase}, mixup = {mixup:?} }}"
        )
    }
}

fn zero_or(most: f64) -> impl Strategy<Value = f64> {
    prop_oneof![Just(0.0), 0.0..=most]
}

proptest! {
    /// File and bytes say the same, and neither loses anything.
    #[test]
    fn every_recipe_survives_file_and_bytes(text in recipes()) {
        let recipe: Training = toml::from_str(&text).unwrap();
        let bytes = recipe.to_canonical();
        prop_assert_eq!(Training::from_canonical(&bytes), Ok(recipe.clone()));
        let file = toml::to_string(&recipe).unwrap();
        let again: Training = toml::from_str(&file).unwrap();
        prop_assert_eq!(again.to_canonical(), bytes, "{}", file);
    }
}

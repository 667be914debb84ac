//! What a site can read: sizes of pictures, and labels in a table.

use consilium_study::document::Draft;

use super::{draft, edited};

/// Of classes that exclude each other there is always one, whatever its name.
#[test]
fn a_class_may_be_called_none() {
    draft(&edited("\"normal\", ", "\"none\", "));
    draft(&edited("\"normal\", ", "\"mild|moderate\", "));
}

#[test]
fn a_size_that_no_site_can_read_is_refused_in_the_words_of_a_site() {
    let words = |text: &str, key: &str, asked: &str, instead: &str| {
        let error = Draft::from_toml(text).expect_err(text);
        let said = format!(
            "{key}: a picture has 1 or 3 channels and 1 to 1024 pixels a side, a volume 1 to 512 grey slices of such sides and at most \
             16777216 values; asked for is {asked}; {instead}"
        );
        assert!(error.problems().iter().any(|problem| problem.to_string() == said), "{error}\n{said}");
    };
    let colour = "write channels = 1 for grey pictures, or channels = 3 for those in colour";
    words(&edited("channels = 1", "channels = 4"), "data.channels", "image 4x28x28", colour);
    let side = "write a number from 1 to 1024";
    words(&edited("height = 28", "height = 1025"), "data.height", "image 1x1025x28", side);
    // A preset would see more of such a volume than a graph may.
    let means = r#"layers = [{ kind = "global-average-pool" }, { kind = "linear", outputs = 2 }]"#;
    let volume = |sides: &str| {
        edited("height = 28\nwidth = 28", sides).replace("preset = \"small-cnn\"\nnorm = \"group\"", means)
    };
    words(&volume("height = 28\nwidth = 1025\ndepth = 2"), "data.width", "volume 1x2x28x1025", side);
    let fewer = "ask for fewer slices, or for smaller ones";
    words(&volume("height = 256\nwidth = 256\ndepth = 257"), "data.depth", "volume 1x257x256x256", fewer);
    let grey = edited("channels = 1", "channels = 3\ndepth = 16");
    words(&grey, "data.channels", "volume 3x16x28x28", "write channels = 1");
    // The planes inside of a model are its own affair, and numbers of a row are no channels.
    let rows = edited(
        "channels = 1\nheight = 28\nwidth = 28\nmean = 0.57\nstd = 0.17",
        "inputs = [{ column = \"a\" }, { column = \"b\" }]",
    );
    let rows = rows
        .replace("\"small-cnn\"\nnorm = \"group\"", "\"mlp\"")
        .replace("flip = true, crop = 2", "crop = 0");
    draft(&rows);
}

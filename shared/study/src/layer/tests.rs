//! The codec of layers.

use super::*;
use crate::canonical::Canonical;
use crate::graph::ModelGraph;
use minicbor::Encoder;

fn residual(main: Vec<Layer>) -> Layer {
    Layer::Residual(Residual { main, shortcut: vec![] })
}

fn concat(branch: Vec<Layer>) -> Layer {
    Layer::Concat(Concat { branches: vec![vec![], branch] })
}

#[test]
fn the_probe_sees_branches_where_the_codec_writes_them() {
    for inner in [residual(vec![]), concat(vec![])] {
        assert!(inner.has_branches());
        for outer in [residual(vec![inner.clone()]), concat(vec![Layer::Flatten, inner.clone()])] {
            let error = Layer::from_canonical(&outer.to_canonical()).unwrap_err().to_string();
            assert!(error.contains("a branch holds no layer with branches"), "{error}");
        }
    }
    for plain in [residual, concat].map(|of| of(vec![Layer::Flatten, Layer::LayerNorm])) {
        assert_eq!(Layer::from_canonical(&plain.to_canonical()), Ok(plain));
    }
}

#[test]
fn a_million_nested_branches_do_not_make_the_decoder_recurse() {
    for number in WITH_BRANCHES {
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes);
        encoder.map(2).unwrap().u8(0).unwrap().encode([1, 8, 8]).unwrap().u8(1).unwrap();
        for _ in 0..1_000_000 {
            // One layer: its number with one field, a map whose first entry is a list of layers or of branches.
            encoder.array(1).unwrap().array(2).unwrap().u32(number).unwrap();
            encoder.array(1).unwrap().map(2).unwrap().u8(0).unwrap();
            if number == 12 {
                encoder.array(1).unwrap();
            }
        }
        let error = ModelGraph::from_canonical(&bytes).unwrap_err().to_string();
        assert!(error.contains("no layer with branches"), "{error}");
    }
}

/// Studies of earlier builds keep their hash: what they could not say is not in their bytes.
#[test]
fn what_is_usual_is_absent_and_may_not_be_spelt_out() {
    let conv =
        Convolution { filters: 4, kernel: 3, stride: 1, padding: 1, groups: 1, bias: true, dilation: 1 };
    // {0: 4, 1: 3, 2: 1, 3: 1, 4: 1, 5: true}
    let bytes = [0xa6, 0, 4, 1, 3, 2, 1, 3, 1, 4, 1, 5, 0xf5];
    assert_eq!(conv.to_canonical(), bytes);
    let dilated = Convolution { dilation: 2, ..conv.clone() };
    let with = |dilation| [&[0xa7], &bytes[1..], &[6, dilation]].concat();
    assert_eq!(dilated.to_canonical(), with(2));
    assert_eq!(Convolution::from_canonical(&bytes), Ok(conv));
    assert_eq!(Convolution::from_canonical(&with(2)), Ok(dilated));
    assert!(Convolution::from_canonical(&with(1)).is_err());
    assert!(Convolution::from_canonical(&with(0xf6)).is_err(), "null is no number");

    // {0: 2}
    let bytes = [0xa1, 0, 2];
    assert_eq!(Pool { size: 2, stride: None, padding: 0 }.to_canonical(), bytes);
    let padded = Pool { size: 3, stride: Some(2), padding: 1 };
    assert_eq!(Pool::from_canonical(&padded.to_canonical()), Ok(padded));
    assert!(Pool::from_canonical(&[0xa2, 0, 2, 2, 0]).is_err());
}

#[test]
fn each_kind_has_its_bytes() {
    let squeeze = Layer::SqueezeExcitation(SqueezeExcitation { reduction: 4 });
    let transposed = Layer::TransposedConv2d(TransposedConvolution {
        filters: 2,
        kernel: 3,
        stride: 2,
        padding: 1,
        bias: false,
    });
    let activation = |function| Layer::Activation(Activation { function });
    let cases: [(Layer, &[u8]); 10] = [
        (Layer::LayerNorm, &[0x82, 11, 0x80]),
        (concat(vec![Layer::Flatten]), &[0x82, 12, 0x81, 0xa1, 0, 0x82, 0x80, 0x81, 0x82, 7, 0x80]),
        (squeeze, &[0x82, 13, 0x81, 0xa1, 0, 4]),
        (transposed, &[0x82, 14, 0x81, 0xa5, 0, 2, 1, 3, 2, 2, 3, 1, 4, 0xf4]),
        (activation(Function::Sigmoid), &[0x82, 3, 0x81, 0xa1, 0, 4]),
        (activation(Function::LeakyRelu), &[0x82, 3, 0x81, 0xa1, 0, 5]),
        (Layer::Keep, &[0x82, 15, 0x80]),
        (Layer::Join(Join::default()), &[0x82, 16, 0x81, 0xa1, 0, 0]),
        (Layer::Join(Join { by: Joining::Add }), &[0x82, 16, 0x81, 0xa1, 0, 1]),
        (Layer::Columns, &[0x82, 21, 0x80]),
    ];
    for (layer, bytes) in cases {
        assert_eq!(layer.to_canonical(), bytes, "{}", layer.kind());
        assert_eq!(Layer::from_canonical(bytes), Ok(layer));
        for end in 0..bytes.len() {
            assert!(Layer::from_canonical(&bytes[..end]).is_err());
        }
    }
    // Another length, a number without a layer, a function without a name.
    for bytes in [&[0x82, 12, 0x81, 0xa1, 0, 0x9f, 0xff][..], &[0x82, 17, 0x80], &[0x82, 3, 0x81, 0xa1, 0, 6]]
    {
        assert!(Layer::from_canonical(bytes).is_err(), "{bytes:?}");
    }
}

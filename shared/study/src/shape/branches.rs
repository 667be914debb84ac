//! Shapes over layers with branches, and what begins and ends in a branch.

use super::{LayerName, Shape, Trace, within};
use crate::fault::{GraphError, GraphFault};
use crate::graph::{Concat, Layer, Residual};

impl Trace {
    pub(super) fn pass_residual(
        &mut self,
        name: &LayerName,
        residual: &Residual,
        shape: Shape,
    ) -> Result<Shape, GraphError> {
        go_on(name, "residual", [&residual.main, &residual.shortcut])?;
        let main = self.pass_branch(name, "main", &residual.main, shape)?;
        let shortcut = self.pass_branch(name, "shortcut", &residual.shortcut, shape)?;
        if main == shortcut {
            Ok(main)
        } else {
            let fault = GraphFault::BranchesDiffer { main, shortcut };
            Err(GraphError::Layer { name: name.clone(), kind: "residual", fault })
        }
    }

    pub(super) fn pass_concat(
        &mut self,
        name: &LayerName,
        concat: &Concat,
        shape: Shape,
    ) -> Result<Shape, GraphError> {
        go_on(name, "concat", &concat.branches)?;
        let count = concat.branches.len();
        let mut outputs = Vec::with_capacity(count);
        for (index, branch) in concat.branches.iter().enumerate() {
            outputs.push(self.pass_branch(name, &format!("branches.{index}"), branch, shape)?);
        }
        let joined = if count < 2 { Err(GraphFault::TooFewBranches(count)) } else { join(&outputs) };
        joined.map_err(|fault| GraphError::Layer { name: name.clone(), kind: "concat", fault })
    }

    fn pass_branch(
        &mut self,
        name: &LayerName,
        label: &str,
        layers: &[Layer],
        shape: Shape,
    ) -> Result<Shape, GraphError> {
        let outside = std::mem::take(&mut self.kept);
        let after = layers.iter().enumerate().try_fold(shape, |shape, (index, layer)| {
            let name = name.inside(label, index);
            match layer {
                Layer::Columns if index == 0 => self.columns(&name),
                layer if layer.has_branches() => {
                    Err(GraphError::Layer { name, kind: layer.kind(), fault: GraphFault::NestedBranches })
                }
                layer => self.pass(&name, layer, shape),
            }
        })?;
        self.check_kept()?;
        self.kept = outside;
        Ok(after)
    }

    /// Everything that was laid aside has been taken up.
    pub(super) fn check_kept(&self) -> Result<(), GraphError> {
        match self.kept.last() {
            None => Ok(()),
            Some((name, _)) => Err(GraphError::Layer {
                name: name.clone(),
                kind: Layer::Keep.kind(),
                fault: GraphFault::NeverJoined,
            }),
        }
    }

    /// The numbers beside the picture, which are there already.
    fn columns(&mut self, name: &LayerName) -> Result<Shape, GraphError> {
        let fault =
            if self.columns == 0 { Err(GraphFault::NoColumns) } else { within("columns", self.columns) };
        fault.map_err(|fault| GraphError::Layer {
            name: name.clone(),
            kind: Layer::Columns.kind(),
            fault,
        })?;
        self.reads_columns = true;
        Ok(Shape::Row(self.columns))
    }
}

/// Of branches, one at least goes on with what comes in: what lies before them would have no part in the scores.
fn go_on<'a>(
    name: &LayerName,
    kind: &'static str,
    branches: impl IntoIterator<Item = &'a Vec<Layer>>,
) -> Result<(), GraphError> {
    let mut firsts = branches.into_iter().map(|branch| branch.first()).peekable();
    if firsts.peek().is_some() && firsts.all(|first| first == Some(&Layer::Columns)) {
        Err(GraphError::Layer { name: name.clone(), kind, fault: GraphFault::PictureLost })
    } else {
        Ok(())
    }
}

/// Signals that agree in all but their channels, one behind the other.
pub(super) fn join(outputs: &[Shape]) -> Result<Shape, GraphFault> {
    let first = outputs[0];
    let mut features = 0_u32;
    for (branch, &other) in outputs.iter().enumerate() {
        let more = match (first, other) {
            (Shape::Image([_, height, width]), Shape::Image([channels, rows, columns]))
                if (height, width) == (rows, columns) =>
            {
                channels
            }
            (Shape::Volume([_, places @ ..]), Shape::Volume([channels, others @ ..])) if places == others => {
                channels
            }
            (Shape::Row(_), Shape::Row(length)) => length,
            _ => return Err(GraphFault::BranchesDoNotJoin { branch, first, other }),
        };
        // At most MAX_LAYERS branches of at most MAX_SIDE each.
        features += more;
    }
    let (what, joined) = match first {
        Shape::Image([_, height, width]) => ("channels", Shape::Image([features, height, width])),
        Shape::Volume([_, depth, height, width]) => {
            ("channels", Shape::Volume([features, depth, height, width]))
        }
        Shape::Row(_) => ("length", Shape::Row(features)),
    };
    within(what, features).map(|()| joined)
}

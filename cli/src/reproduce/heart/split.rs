//! Which patients are for testing: the split of FLamby (Ogier du Terrail et al. 2022, Fed-Heart-Disease).
//!
//! By their line in UCI's file, from 1. FLamby draws 34 % of the whole rows of each hospital with scikit-learn
//! (`train_test_split`, `random_state = 43`, stratified where both classes have more than two rows).

/// Lines of one hospital's file that are for testing, ascending; none for a file that is not one of the four.
pub(super) fn test_lines(hospital: &str) -> &'static [u16] {
    match hospital {
        "cleveland" => &CLEVELAND,
        "hungarian" => &HUNGARIAN,
        "switzerland" => &SWITZERLAND,
        "va" => &VA,
        _ => &[],
    }
}

/// Of `processed.cleveland.data`.
const CLEVELAND: [u16; 104] = [
    6, 14, 17, 25, 27, 35, 41, 43, 44, 47, 48, 49, 50, 54, 56, 57, 60, 61, 62, 64, 65, 66, 70, 73, 77, 79,
    87, 88, 89, 91, 92, 94, 96, 102, 104, 105, 106, 114, 117, 124, 129, 134, 135, 136, 137, 138, 152, 153,
    155, 157, 158, 161, 164, 166, 171, 172, 180, 181, 189, 191, 193, 198, 202, 203, 204, 212, 214, 216, 217,
    219, 222, 224, 225, 228, 229, 234, 237, 240, 244, 247, 250, 251, 257, 258, 259, 260, 261, 265, 266, 267,
    271, 284, 285, 286, 289, 290, 291, 293, 295, 296, 297, 298, 299, 302,
];
/// Of `processed.hungarian.data`.
const HUNGARIAN: [u16; 89] = [
    5, 9, 18, 23, 27, 29, 30, 31, 33, 37, 39, 40, 41, 47, 53, 54, 55, 57, 59, 64, 67, 68, 71, 77, 83, 84, 85,
    97, 99, 101, 105, 107, 113, 122, 126, 129, 130, 131, 138, 139, 141, 144, 149, 150, 153, 154, 159, 160,
    162, 166, 170, 174, 180, 184, 185, 187, 190, 195, 199, 207, 210, 214, 216, 217, 218, 219, 221, 222, 224,
    228, 231, 232, 233, 235, 243, 250, 254, 255, 265, 267, 271, 275, 282, 284, 285, 286, 288, 292, 293,
];
/// Of `processed.switzerland.data`.
const SWITZERLAND: [u16; 16] = [20, 22, 24, 27, 43, 47, 56, 58, 60, 62, 71, 82, 87, 91, 114, 115];
/// Of `processed.va.data`.
const VA: [u16; 45] = [
    2, 6, 7, 11, 15, 33, 36, 42, 46, 47, 51, 53, 55, 56, 65, 68, 80, 86, 87, 89, 92, 94, 96, 99, 105, 107,
    109, 118, 119, 129, 133, 141, 152, 153, 177, 178, 179, 181, 185, 187, 188, 190, 194, 196, 198,
];

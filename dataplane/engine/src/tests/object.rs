//! What the programs are made of.

use object::{Object as _, ObjectSection as _};

use crate::program::OBJECT;

/// `call`.
const CALL: u8 = 0x85;
/// Its source register where it is a function of the program that is called, and not the kernel's.
const OWN_FUNCTION: u8 = 1;

/// Before Linux 6.2 the verifier does not forget a number in a program that has functions: turnpike_in_v4 took 972,000 of the 1,000,000
/// instructions that it looks at on 6.1, and takes 245,000 as one function.
#[test]
fn every_program_is_one_function() {
    let file = object::File::parse(OBJECT).unwrap();
    let code = file.section_by_name("xdp").unwrap().data().unwrap();
    let calls = |own: bool| {
        let is = |of: &&[u8]| of[0] == CALL && (of[1] >> 4 == OWN_FUNCTION) == own;
        code.chunks_exact(8).filter(is).count()
    };
    assert!(calls(false) > 0, "no call of the kernel's: this looks at the wrong bytes");
    assert_eq!(calls(true), 0, "calls of functions of the programs");
}

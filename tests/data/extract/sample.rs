//! Crate.
use std::collections::{HashMap, HashSet as Set};
use crate::inner::deep;
pub use self::outer::*;
extern crate alloc;

/// A box.
///
/// It holds.
#[derive(Debug)]
#[repr(C)]
pub struct Box1<T> { pub size: u32, inner: T }
pub struct Pair(u32, u32);
union Bits { int: u32, float: f32 }
impl<T> Trait for Box1<T> { type Item = u32; const N: u32 = 1; fn open(&self) -> u32 { let local = 1; local } }
impl fmt::Display for module::Other { fn fmt(&self) {} }
impl dyn Trait { fn dynamic() {} }
impl<'a> Trait for &'a Pair { fn by_reference() {} }
/** Opens. */
pub trait Trait: Base { type Item; const N: u32; fn open(&self) -> u32; fn close(&self) { const INNER: u8 = 1; } }
enum Level { Low, High(u8), Named { field: u8 } }
const MAX: u32 = 3;
static mut COUNT: u32 = 0;
pub(crate) type Alias = HashMap<u8, u8>;
/// Doubles.
macro_rules! twice { ($x:expr) => { $x + $x } }
mod inner { pub async fn deep() { fn nested() {} } }
mod elsewhere;
extern "C" { fn c_function(x: i32) -> i32; static c_static: u8; }
fn main() {
    let closure = |x: u32| twice!(x);
    println!("{}", closure(MAX));
    struct Local { x: u8 }
}
trait Shape = Trait;

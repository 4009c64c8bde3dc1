//! Memory for what is uploaded, used again: fresh pages cost as much as hashing what is read into them.

use std::mem;
use std::sync::{Mutex, MutexGuard};

/// Buffers smaller than this come from the allocator and go back to it, which keeps their pages.
const SMALLEST_KEPT: usize = 16 << 10;
/// Up to this, lengths are rounded up to a power of two: small files have many sizes, and few kinds of buffers serve them all.
const LARGEST_ROUNDED: usize = 8 << 20;

/// What is free, and how many uploads may want it.
struct Pool {
    free: Vec<Vec<u8>>,
    users: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool {
    free: Vec::new(),
    users: 0,
});

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock()
        .expect("nothing panics while it holds the buffers")
}

/// While one lives, buffers are kept; with the last one all memory goes back.
pub struct Keep(());

/// Begins to keep buffers.
pub fn keep() -> Keep {
    pool().users += 1;
    Keep(())
}

impl Drop for Keep {
    fn drop(&mut self) {
        let mut pool = pool();
        pool.users -= 1;
        if pool.users == 0 {
            drop(mem::take(&mut pool.free));
        }
    }
}

/// Bytes to read into and to send, in memory that may have been used before.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    length: usize,
}

/// A buffer of this length; what is in it is of no use.
pub fn take(length: usize) -> Buffer {
    if length < SMALLEST_KEPT {
        let bytes = vec![0; length];
        return Buffer { bytes, length };
    }
    let room = match length <= LARGEST_ROUNDED {
        true => length.next_power_of_two(),
        false => length,
    };
    let kept = {
        let mut pool = pool();
        // A part's buffer is not spent on a small file.
        let fits = |free: &Vec<u8>| free.len() >= length && free.len() / 2 <= room;
        let fits = pool.free.iter().position(fits);
        fits.map(|at| pool.free.swap_remove(at))
    };
    let bytes = kept.unwrap_or_else(|| vec![0; room]);
    Buffer { bytes, length }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.bytes.len() < SMALLEST_KEPT {
            return;
        }
        let mut pool = pool();
        if pool.users > 0 {
            pool.free.push(mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_while_somebody_keeps_it_and_only_then() {
        const LENGTH: usize = SMALLEST_KEPT + 7;
        let kept = keep();
        let mut first = take(LENGTH);
        first.as_mut()[0] = 1;
        let place = first.as_ref().as_ptr();
        drop(first);
        let again = take(LENGTH - 5);
        assert_eq!(
            (again.as_ref().as_ptr(), again.as_ref().len()),
            (place, LENGTH - 5)
        );
        drop(kept);
        // Somebody else's upload may still be using the pool in this process: then it stays there for that.
        drop(again);
        assert!(pool().users > 0 || pool().free.is_empty());
    }
}

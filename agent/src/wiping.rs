//! Memory that is given back is wiped before anybody else gets it: buffers of libraries through which a secret came keep no copy of it.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    hint::black_box,
    ptr,
};

/// What is larger holds parts of files: keys and the messages that bring them are far smaller, and a wipe of those costs nothing.
const MOST_BYTES: usize = 64 << 10;

/// The system's allocator, which wipes what is small.
pub struct Wiping;

/// Zeros over memory that is given back; the compiler must not see that nobody reads it any more.
///
/// # Safety
/// `at` is valid for writes of `bytes`.
unsafe fn wipe(at: *mut u8, bytes: usize) {
    if bytes <= MOST_BYTES {
        // SAFETY: as the caller promises.
        unsafe { ptr::write_bytes(at, 0, bytes) };
        black_box(at);
    }
}

// SAFETY: every call is the system's own; before one that gives memory back it is still ours to write to.
unsafe impl GlobalAlloc for Wiping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: it is of this layout until the second call.
        unsafe {
            wipe(at, layout.size());
            System.dealloc(at, layout);
        }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if layout.size() > MOST_BYTES {
            // SAFETY: as the caller promises.
            return unsafe { System.realloc(at, layout, size) };
        }
        // SAFETY: the size is not zero and fits with this alignment, as the caller promises; both blocks hold what is copied.
        unsafe {
            let new = System.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                ptr::copy_nonoverlapping(at, new, layout.size().min(size));
                self.dealloc(at, layout);
            }
            new
        }
    }
}

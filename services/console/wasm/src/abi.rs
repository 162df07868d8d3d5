//! What the page calls. Memory that one side fills for the other is [`alloc`]ed and [`free`]d here.

use std::alloc::Layout;

/// Room for so many bytes.
#[unsafe(no_mangle)]
pub extern "C" fn alloc(length: usize) -> *mut u8 {
    let mut room = Vec::<u8>::with_capacity(length.max(1));
    let at = room.as_mut_ptr();
    std::mem::forget(room);
    at
}

/// # Safety
/// `at` came from [`alloc`] or [`call`] with this length, and is used no more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free(at: *mut u8, length: usize) {
    if let Ok(layout) = Layout::array::<u8>(length.max(1)) {
        // SAFETY: as the caller promises; allocations here have exactly their length.
        unsafe { std::alloc::dealloc(at, layout) };
    }
}

/// Answers a question. The answer is at the upper 32 bits of what is returned, and as long as the lower ones say; the question's room
/// is freed.
///
/// # Safety
/// `at` came from [`alloc`] and was filled with `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn call(at: *mut u8, length: usize) -> u64 {
    // SAFETY: as the caller promises.
    let question = unsafe { std::slice::from_raw_parts(at, length) };
    let answer = match std::str::from_utf8(question) {
        Ok(question) => crate::answer(question),
        Err(_) => r#"{"error":"the question is not UTF-8"}"#.to_owned(),
    };
    // SAFETY: as the caller promises.
    unsafe { free(at, length) };
    let answer = answer.into_bytes().into_boxed_slice();
    let length = answer.len() as u64;
    let at = Box::into_raw(answer).cast::<u8>() as usize as u64;
    at << 32 | length
}

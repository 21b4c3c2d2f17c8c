//! A fork-join pool: splits the items of a call over threads and waits for all of them.
//!
//! A job is divided into chunks, and each thread has its share of them: the same part of every job, so that what one call
//! wrote is in the cache of the core that reads it in the next, which makes steps of ResNet-20 a tenth faster. (Going
//! backwards every other time, from what was written last, costs 2 %.) An atomic word per share says how many of its
//! chunks are left; whoever lowers it owns a chunk: the share's thread, or one that has none left in its own. A thread
//! that comes late finds nothing left and is not waited for, so the pool also works with more threads than cores. Idle
//! threads spin for a moment, because the next call of a step follows within microseconds, then sleep.
//!
//! Which thread ends up with which chunk is left to chance; results do not depend on it (see [`crate::step`]).

#![allow(unsafe_code, reason = "a borrowed task is shared with threads that outlive the borrow")]

use crate::error::{Error, ErrorKind, Result};
use crate::step::Workers;
use std::any::Any;
use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long to spin before sleeping: longer than the kernels of one item between two calls for everybody take, because a
/// thread that sleeps is late for the next by more than it would have spun.
const SPIN: Duration = Duration::from_micros(200);
/// Chunks per thread: few enough to be cheap, enough to even out unequal threads.
const CHUNKS_PER_THREAD: u32 = 8;

type Task<'a> = dyn Fn(u32, u32) + Sync + 'a;

/// What the chunks of the current job are.
#[derive(Clone, Copy)]
struct Job {
    task: *const Task<'static>,
    items: u32,
    chunks: u32,
}

/// Chunks of a share not yet taken, on a cache line of its own.
#[repr(align(64))]
#[derive(Default)]
struct Left(AtomicU32);

struct Shared {
    /// By thread, the caller first.
    left: Box<[Left]>,
    /// Read only by owners of a chunk of the current job; written only between jobs.
    job: UnsafeCell<Job>,
    /// Chunks finished.
    done: AtomicU32,
    /// Set when the pool is dropped.
    stop: AtomicBool,
    /// Threads asleep, the caller included.
    sleepers: AtomicU32,
    bed: Mutex<()>,
    alarm: Condvar,
    /// The first panic of a task.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is written by the caller while no chunk is out, before the ticket publishes it; it is read only after
// taking a chunk, and the caller waits for every chunk that was taken. The task it points to is Sync.
unsafe impl Sync for Shared {}
// SAFETY: the pointer inside is only followed under the protocol above.
unsafe impl Send for Shared {}

/// Threads that run steps.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Held while a job runs: one job at a time.
    caller: Mutex<()>,
}

impl Pool {
    /// A pool of `threads` threads in all, the caller being one of them. Zero counts as one.
    pub fn new(threads: usize) -> Result<Pool> {
        let shared = Arc::new(Shared {
            left: (0..threads.max(1)).map(|_| Left::default()).collect(),
            job: UnsafeCell::new(Job { task: &|_: u32, _: u32| {}, items: 0, chunks: 0 }),
            done: AtomicU32::new(0),
            stop: AtomicBool::new(false),
            sleepers: AtomicU32::new(0),
            bed: Mutex::new(()),
            alarm: Condvar::new(),
            panic: Mutex::new(None),
        });
        let mut pool = Pool { shared, threads: Vec::new(), caller: Mutex::new(()) };
        for i in 1..threads {
            let shared = pool.shared.clone();
            let thread = std::thread::Builder::new().name(format!("fqt-{i}")).spawn(move || shared.work(i));
            pool.threads.push(thread.map_err(|error| {
                Error::new(
                    ErrorKind::Resources,
                    format!("cannot start thread {} of {threads}: {error}", i + 1),
                    "ask for fewer threads; more than the machine has cores do not help",
                )
            })?);
        }
        Ok(pool)
    }

    /// Threads in all.
    pub fn threads(&self) -> usize {
        self.threads.len() + 1
    }

    fn run(&self, items: u32, task: &Task<'_>) {
        let chunks = items.min(self.threads() as u32 * CHUNKS_PER_THREAD);
        // SAFETY: only the lifetime changes; `run` returns after the last use of the pointer.
        let task =
            unsafe { std::mem::transmute::<*const Task<'_>, *const Task<'static>>(std::ptr::from_ref(task)) };
        let shared = &*self.shared;
        // SAFETY: the caller's lock is held and the previous job is finished, so nobody reads the job.
        unsafe { *shared.job.get() = Job { task, items, chunks } };
        shared.done.store(0, SeqCst);
        for (thread, left) in shared.left.iter().enumerate() {
            left.0.store(shared.edge(chunks, thread + 1) - shared.edge(chunks, thread), SeqCst);
        }
        shared.wake();
        while shared.take_chunk(0) {}
        shared.wait_until(|| shared.done.load(SeqCst) == chunks);
    }
}

impl Workers for Pool {
    fn split(&self, items: u32, task: &Task<'_>) {
        // A task that splits again, or a second caller, runs its items itself.
        let alone = self.threads.is_empty() || items <= 1;
        let guard = if alone { None } else { self.caller.try_lock().ok() };
        let Some(guard) = guard else {
            task(0, items);
            return;
        };
        self.run(items, task);
        drop(guard);
        let panic = lock(&self.shared.panic).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.shared.wake();
        for thread in self.threads.drain(..) {
            // A worker catches the panics of tasks, so there is nothing to learn from the result.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// What a worker does until the pool is dropped.
    fn work(&self, thread: usize) {
        while !self.stop.load(SeqCst) {
            while self.take_chunk(thread) {}
            let any_left = || self.left.iter().any(|left| left.0.load(SeqCst) != 0);
            self.wait_until(|| any_left() || self.stop.load(SeqCst));
        }
    }

    /// Where the share of a thread begins among so many chunks.
    fn edge(&self, chunks: u32, thread: usize) -> u32 {
        (chunks as usize * thread / self.left.len()) as u32
    }

    /// Takes and runs one chunk, if one is left: of the thread's share, else of those of the threads after it.
    fn take_chunk(&self, thread: usize) -> bool {
        let threads = self.left.len();
        let take = |share: usize| {
            let left = &self.left[share].0;
            Some((share, left.try_update(SeqCst, SeqCst, |left| left.checked_sub(1)).ok()?))
        };
        let Some((share, before)) = (thread..thread + threads).find_map(|t| take(t % threads)) else {
            return false;
        };
        // SAFETY: this thread owns an unfinished chunk, so the job stays as it is until `done` counts it.
        let job = unsafe { *self.job.get() };
        let chunk = u64::from(self.edge(job.chunks, share + 1) - before);
        let edge = |i: u64| (i * job.items as u64 / job.chunks as u64) as u32;
        // SAFETY: the caller's borrow of the task lasts until `done` counts all chunks.
        let task = unsafe { &*job.task };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| task(edge(chunk), edge(chunk + 1)))) {
            lock(&self.panic).get_or_insert(panic);
        }
        if self.done.fetch_add(1, SeqCst) + 1 == job.chunks {
            self.wake();
        }
        true
    }

    /// Spins, then sleeps, until the condition holds. Whoever makes it true calls `wake` afterwards.
    fn wait_until(&self, ready: impl Fn() -> bool) {
        let start = Instant::now();
        loop {
            for _ in 0..64 {
                if ready() {
                    return;
                }
                spin_loop();
            }
            if start.elapsed() > SPIN {
                break;
            }
        }
        self.sleepers.fetch_add(1, SeqCst);
        let mut guard = lock(&self.bed);
        while !ready() {
            guard = self.alarm.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        drop(guard);
        self.sleepers.fetch_sub(1, SeqCst);
    }

    /// Wakes all sleepers. In the total order of these operations, either this sees a sleeper's count or the sleeper
    /// sees the changed condition; and a sleeper that was counted holds the lock from its last look until it waits.
    fn wake(&self) {
        if self.sleepers.load(SeqCst) > 0 {
            drop(lock(&self.bed));
            self.alarm.notify_all();
        }
    }
}

/// Locks; a panic elsewhere leaves nothing half-done behind these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    fn check_every_item_once(pool: &Pool, items: u32) {
        let counts: Vec<AtomicU32> = (0..items).map(|_| AtomicU32::new(0)).collect();
        pool.split(items, &|first, last| {
            for i in first..last {
                counts[i as usize].fetch_add(1, SeqCst);
            }
        });
        assert!(counts.iter().all(|c| c.load(SeqCst) == 1), "{} threads, {items} items", pool.threads());
    }

    #[test]
    fn every_item_runs_once_with_any_number_of_threads() {
        for threads in [0, 1, 2, 3, 9] {
            let pool = Pool::new(threads).unwrap();
            for round in 0..300 {
                check_every_item_once(&pool, [0, 1, 2, 7, 64, 1000][round % 6]);
                if round % 100 == 99 {
                    std::thread::sleep(Duration::from_millis(1)); // lets the workers fall asleep
                }
            }
        }
    }

    #[test]
    fn each_call_is_a_barrier() {
        let pool = Pool::new(3).unwrap();
        let mut sum = vec![0u64; 100];
        for _ in 0..200 {
            let before = sum.clone();
            let cells: Vec<AtomicU64> = sum.iter().map(|&x| AtomicU64::new(x)).collect();
            pool.split(100, &|first, last| {
                for i in first..last {
                    let next = before[(i as usize + 1) % 100] + 1;
                    cells[i as usize].store(next, SeqCst);
                }
            });
            sum = cells.into_iter().map(AtomicU64::into_inner).collect();
        }
        assert_eq!(sum, vec![200; 100]);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let pool = Pool::new(3).unwrap();
        let caught = catch_unwind(AssertUnwindSafe(|| {
            pool.split(50, &|first, last| assert!(!(first..last).contains(&33), "item 33"));
        }));
        assert!(caught.is_err());
        check_every_item_once(&pool, 50);
    }

    #[test]
    fn a_task_may_split_again() {
        let pool = Pool::new(2).unwrap();
        let count = AtomicU32::new(0);
        pool.split(4, &|first, last| {
            for _ in first..last {
                pool.split(5, &|a, b| _ = count.fetch_add(b - a, SeqCst));
            }
        });
        assert_eq!(count.into_inner(), 20);
    }
}

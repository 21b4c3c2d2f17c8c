//! A fork-join pool: splits the parts of chains over threads and waits for all of them.
//!
//! The chains of a job are divided into chunks, and each thread has its share of each: the same of every job, so that what one call
//! wrote is in the cache of the core that reads it in the next, which makes steps of ResNet-20 a tenth faster. (Going
//! backwards every other time, from what was written last, costs 2 %.) An atomic word per share says how many of its
//! chunks are left; whoever lowers it owns a chunk: the share's thread, or one that has none left in its own. A thread
//! that comes late finds nothing left and is not waited for, so the pool also works with more threads than cores. Idle
//! threads spin for a moment, because the next call of a step follows within microseconds, then sleep.
//!
//! Which thread ends up with which chunk is left to chance; results do not depend on it (see [`crate::step`]).

#![allow(unsafe_code, reason = "a borrowed task is shared with threads that outlive the borrow")]

use crate::error::{Error, ErrorKind, Result};
use crate::step::{Chain, Serial, Workers};
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
/// Chunks of a chain per thread: few enough to be cheap, enough to even out unequal threads.
const CHUNKS_PER_THREAD: u32 = 8;

type Task<'a> = dyn Fn(usize, u32, u32) + Sync + 'a;

/// What the chunks of the current job are.
#[derive(Clone, Copy)]
struct Job {
    task: *const Task<'static>,
    chains: *const [Chain],
    /// Of all chains.
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

// SAFETY: `job` is written by the caller while no chunk is out, before `left` publishes it; it is read only after
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
            job: UnsafeCell::new(Job { task: &|_: usize, _: u32, _: u32| {}, chains: &[], chunks: 0 }),
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

    fn run(&self, chains: &[Chain], task: &Task<'_>) {
        // SAFETY: only the lifetime changes; `run` returns after the last use of the pointer.
        let task =
            unsafe { std::mem::transmute::<*const Task<'_>, *const Task<'static>>(std::ptr::from_ref(task)) };
        let shared = &*self.shared;
        let chunks = chains.iter().map(|chain| shared.chunks(chain)).sum();
        // SAFETY: the caller's lock is held and the previous job is finished, so nobody reads the job.
        unsafe { *shared.job.get() = Job { task, chains, chunks } };
        shared.done.store(0, SeqCst);
        for (thread, left) in shared.left.iter().enumerate() {
            left.0.store(shared.share(chains, thread), SeqCst);
        }
        shared.wake();
        while shared.take_chunk(0) {}
        shared.wait_until(|| shared.done.load(SeqCst) == chunks);
    }
}

impl Workers for Pool {
    fn split(&self, chains: &[Chain], task: &Task<'_>) {
        // A task that splits again, or a second caller, runs its parts itself.
        let alone = self.threads.is_empty() || chains.iter().map(|chain| chain.parts).sum::<u32>() <= 1;
        let guard = if alone { None } else { self.caller.try_lock().ok() };
        let Some(guard) = guard else {
            return Serial.split(chains, task);
        };
        self.run(chains, task);
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

    /// Into how many chunks a chain is divided.
    fn chunks(&self, chain: &Chain) -> u32 {
        chain.parts.min(self.left.len() as u32 * CHUNKS_PER_THREAD)
    }

    /// Where the share of a thread begins among the chunks of a chain. Chains of one chunk go to all threads in turn.
    fn edge(&self, number: usize, chain: &Chain, thread: usize) -> u32 {
        let threads = self.left.len();
        ((self.chunks(chain) as usize * thread + number % threads) / threads) as u32
    }

    /// The chunks of a thread's share.
    fn share(&self, chains: &[Chain], thread: usize) -> u32 {
        let of = |(number, chain)| self.edge(number, chain, thread + 1) - self.edge(number, chain, thread);
        chains.iter().enumerate().map(of).sum()
    }

    /// The chain and the parts of the chunk at a position in a thread's share.
    fn chunk(&self, chains: &[Chain], thread: usize, mut position: u32) -> Option<(usize, u32, u32)> {
        for (number, chain) in chains.iter().enumerate() {
            let [begin, end] = [thread, thread + 1].map(|thread| self.edge(number, chain, thread));
            if position < end - begin {
                let (chunks, chunk) = (u64::from(self.chunks(chain)), u64::from(begin + position));
                let edge = |i: u64| (i * u64::from(chain.parts) / chunks) as u32;
                return Some((number, edge(chunk), edge(chunk + 1)));
            }
            position -= end - begin;
        }
        None
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
        // SAFETY: the caller's borrow of task and chains lasts until `done` counts all chunks.
        let (task, chains) = unsafe { (&*job.task, &*job.chains) };
        let chunk = self.chunk(chains, share, self.share(chains, share) - before);
        let run = || chunk.into_iter().for_each(|(chain, first, last)| task(chain, first, last));
        if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
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

    /// The task of a pool where there is only one chain.
    fn split(pool: &Pool, parts: u32, task: &(dyn Fn(u32, u32) + Sync)) {
        pool.split(&[Chain { calls: 1, parts }], &|_, first, last| task(first, last));
    }

    fn check_every_part_once(pool: &Pool, parts: &[u32]) {
        let chains: Vec<Chain> = parts.iter().map(|&parts| Chain { calls: 1, parts }).collect();
        let zeros = |&n: &u32| (0..n).map(|_| AtomicU32::new(0)).collect::<Vec<_>>();
        let counts: Vec<Vec<AtomicU32>> = parts.iter().map(zeros).collect();
        pool.split(&chains, &|chain, first, last| {
            for i in first..last {
                counts[chain][i as usize].fetch_add(1, SeqCst);
            }
        });
        let once = counts.iter().flatten().all(|c| c.load(SeqCst) == 1);
        assert!(once, "{} threads, parts {parts:?}", pool.threads());
    }

    #[test]
    fn every_part_runs_once_with_any_number_of_threads() {
        let jobs: [&[u32]; 8] = [&[0], &[1], &[2], &[7], &[64, 1, 1, 3], &[1000], &[1; 23], &[]];
        for threads in [0, 1, 2, 3, 9] {
            let pool = Pool::new(threads).unwrap();
            for round in 0..400 {
                check_every_part_once(&pool, jobs[round % 8]);
                if round % 100 == 99 {
                    std::thread::sleep(Duration::from_millis(1)); // lets the workers fall asleep
                }
            }
        }
    }

    #[test]
    fn a_thread_has_the_same_share_of_long_chains_whatever_is_beside_them() {
        let pool = Pool::new(2).unwrap();
        let [long, short] = [32, 1].map(|parts| Chain { calls: 1, parts });
        for (chains, at) in [(vec![long], 0), (vec![short, long], 1), (vec![short, short, long, short], 2)] {
            let edges = [0, 1, 2].map(|thread| pool.shared.edge(at, &chains[at], thread));
            assert_eq!(edges, [0, 8, 16]);
            let shares = [0, 1].map(|thread| pool.shared.share(&chains, thread));
            assert!(shares[0].abs_diff(shares[1]) <= 1, "{shares:?}");
        }
    }

    #[test]
    fn each_call_is_a_barrier() {
        let pool = Pool::new(3).unwrap();
        let mut sum = vec![0u64; 100];
        for _ in 0..200 {
            let before = sum.clone();
            let cells: Vec<AtomicU64> = sum.iter().map(|&x| AtomicU64::new(x)).collect();
            split(&pool, 100, &|first, last| {
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
            split(&pool, 50, &|first, last| assert!(!(first..last).contains(&33), "item 33"));
        }));
        assert!(caught.is_err());
        check_every_part_once(&pool, &[50]);
    }

    #[test]
    fn a_task_may_split_again() {
        let pool = Pool::new(2).unwrap();
        let count = AtomicU32::new(0);
        split(&pool, 4, &|first, last| {
            for _ in first..last {
                split(&pool, 5, &|a, b| _ = count.fetch_add(b - a, SeqCst));
            }
        });
        assert_eq!(count.into_inner(), 20);
    }
}

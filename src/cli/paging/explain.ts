/**
 * `--explain`: at each step the system call that is made, and why; in full the first time, then in a few words. Each process and thread
 * explains its own steps. Any thread.
 */
import type { Speaker } from './speaker.js';

interface Step {
  /** As the manual names it. */
  readonly call: string;
  readonly why: string;
  /** From the second time on. */
  readonly again: string;
}

/** A step that is taken once. */
function once(call: string, why: string): Step {
  return { call, why, again: 'as before' };
}

export type StepName =
  | 'socketpair'
  | 'spawn'
  | 'pidfd-open'
  | 'signalfd'
  | 'hello'
  | 'mmap'
  | 'malloc'
  | 'brk'
  | 'shm'
  | 'hugetlb'
  | 'madvise'
  | 'userfaultfd'
  | 'uffdio-api'
  | 'uffdio-register'
  | 'send-fd'
  | 'receive-fd'
  | 'ack'
  | 'poll'
  | 'poll-threads'
  | 'eager'
  | 'touch'
  | 'touch-write'
  | 'read-event'
  | 'copy'
  | 'wake'
  | 'unprotect'
  | 'evict'
  | 'wait-pidfd'
  | 'wait-signalfd'
  | 'exit'
  | 'close';

const STEPS: Readonly<Record<StepName, Step>> = {
  socketpair: {
    call: 'socketpair(2)',
    why: 'a Unix socket with one end for the parent and one for the child: the one way to hand a descriptor from process to process',
    again: 'a socket for the next child',
  },
  spawn: {
    call: 'fork(2), execve(2)',
    why: "starts the child; its end of the socket is inherited, the parent's memory is not",
    again: 'starts the next child',
  },
  'pidfd-open': {
    call: 'pidfd_open(2)',
    why: "a descriptor of the child itself, readable when it ends: it is polled beside the child's faults, and never means another process that got the same number",
    again: 'a descriptor that tells of its end',
  },
  signalfd: once(
    'signalfd(2)',
    "SIGCHLD as something to read: the signal is blocked in every thread of this process first, or a thread of Node's own would take it",
  ),
  hello: {
    call: 'sendmsg(2)',
    why: 'greets the child: version, page size, how much the store has',
    again: 'greets it',
  },
  mmap: once(
    'mmap(2)',
    'private anonymous pages: addresses with nothing behind them, which cost nothing before they are touched',
  ),
  malloc: once('posix_memalign(3)', "pages of the allocator's; aligned, because only whole pages can be registered"),
  brk: once('brk(2)', "moves the end of the process's heap up, to the next whole page and beyond"),
  shm: once(
    'memfd_create(2), mmap(2)',
    'a file that exists in memory only, mapped shared: its pages belong to the file, not to the process',
  ),
  hugetlb: once('mmap(2), MAP_HUGETLB', 'huge pages that the administrator has set aside: one fault brings 2 MiB'),
  madvise: once(
    'madvise(2)',
    'keeps the range out of forks, which would find zeroes there, and out of transparent huge pages; what the pages held before is dropped',
  ),
  userfaultfd: once(
    'open(2) of /dev/userfaultfd, or userfaultfd(2)',
    'the descriptor for faults, non-blocking; for faults of the kernel too where this process may have that, else for its own instructions only',
  ),
  'uffdio-api': once(
    'ioctl(2), UFFDIO_API',
    'the handshake: which version, and which features of this kernel are wanted',
  ),
  'uffdio-register': once(
    'ioctl(2), UFFDIO_REGISTER',
    'from here on a touch of an empty page of the range is a message, and the thread that touched sleeps',
  ),
  'send-fd': once(
    'sendmsg(2), SCM_RIGHTS',
    'hands the userfaultfd to the parent: the number would mean nothing there, the kernel enters the open object into its table',
  ),
  'receive-fd': {
    call: 'recvmsg(2), SCM_RIGHTS',
    why: "takes the child's userfaultfd, and the address it is for",
    again: "takes this child's userfaultfd",
  },
  ack: { call: 'sendmsg(2)', why: 'confirms: the child may touch its pages', again: 'confirms' },
  poll: {
    call: 'epoll_pwait(2)',
    why: 'sleeps until there is a fault or the child ends, whichever is first; on faults alone it would wait for ever for a child that has crashed',
    again: 'waits for a fault or an end',
  },
  'poll-threads': once(
    'epoll_pwait(2)',
    'the main thread sleeps until there is a fault; it never touches these pages itself, or it would wait for itself for ever',
  ),
  eager: {
    call: 'ioctl(2), UFFDIO_COPY',
    why: 'all pages, before the child is told that it may touch them: it will never fault',
    again: 'all pages at once',
  },
  touch: {
    call: 'no system call',
    why: 'reads a byte: where the page is empty the processor itself calls the kernel, and this thread sleeps inside the instruction until the page is there',
    again: 'reads; sleeps if the page is empty',
  },
  'touch-write': {
    call: 'no system call',
    why: 'writes a byte: the page is there, but closed for writing, and that is a fault too',
    again: 'writes; sleeps if the page is closed for writing',
  },
  'read-event': {
    call: 'read(2)',
    why: '32 bytes of the userfaultfd: which address, whether it was read or written, and whether the page is missing or protected',
    again: 'the next fault',
  },
  copy: {
    call: 'ioctl(2), UFFDIO_COPY',
    why: 'takes a page of real memory, copies the letters, enters it in one step: nobody ever sees half a page',
    again: 'enters the page',
  },
  wake: {
    call: 'ioctl(2), UFFDIO_WAKE',
    why: 'the thread runs its instruction again. Usually part of UFFDIO_COPY; apart here so that the line above comes before what the child does next',
    again: 'the thread goes on',
  },
  unprotect: {
    call: 'ioctl(2), UFFDIO_WRITEPROTECT',
    why: 'the write is noted, so the protection may go; further writes to the page cost nothing',
    again: 'opens the page for writing',
  },
  evict: {
    call: 'ioctl(2), UFFDIO_WRITEPROTECT; process_vm_readv(2); madvise(2), MADV_DONTNEED',
    why: 'closes the oldest page for writing, saves what was written to it, and has it dropped by the process it belongs to: nobody else may',
    again: 'the oldest page makes room',
  },
  'wait-pidfd': {
    call: 'waitid(2)',
    why: 'the pidfd is readable, so the child has ended: takes its status; until then it was a zombie',
    again: 'takes its status',
  },
  'wait-signalfd': {
    call: 'read(2), waitid(2)',
    why: 'the signalfd has a SIGCHLD, which says whose; several may have become one, so every child is asked',
    again: 'a SIGCHLD, and whose it is',
  },
  exit: once('exit_group(2)', 'every letter was right'),
  close: once(
    'close(2)',
    'of everything; the userfaultfd only now, since closing it while a thread waits would let that thread read zeroes',
  ),
};

export class Explainer {
  readonly #speaker: Speaker | undefined;
  readonly #told = new Set<StepName>();

  /** Without a speaker nothing is explained. */
  constructor(speaker: Speaker | undefined) {
    this.#speaker = speaker;
  }

  explain(...names: readonly StepName[]): void {
    if (this.#speaker === undefined) return;
    for (const name of names) {
      const { call, why, again } = STEPS[name];
      this.#speaker.say({ type: 'explain', call, why: this.#told.has(name) ? again : why });
      this.#told.add(name);
    }
  }
}

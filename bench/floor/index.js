// The floors in plain C as JavaScript sees them: builds the addon when it is stale, loads it, and gives it types.
import { createRequire } from 'node:module';
import { build, guestProgram, pagingProgram, target } from './build.mjs';

build();

/**
 * One region a kind can be open at a time. What `…Open` returns is an external ArrayBuffer that `…Close` detaches.
 * @typedef {object} Floor
 * @property {(byteLength: number, fd: number, batch: number, capacity: number, writable?: boolean) => ArrayBuffer} sigbusOpen
 *   SIGBUS in the faulting thread, `batch` pages a fault, at most `capacity` pages present (0: no limit). Writable: what is written goes
 *   back to the file where room is made.
 * @property {(buffer: ArrayBuffer) => boolean} sigbusClose False if another SIGBUS handler was found on top of the floor's.
 * @property {(byteLength: number, fd: number, order: Uint32Array, threads: number, sum: Uint32Array) => number} sigbusScale
 *   Nanoseconds that 1 or 2 C threads take for the pages in `order`; negative if another handler was found.
 * @property {(byteLength: number, fd: number) => ArrayBuffer} mprotectOpen SIGSEGV, fill, mprotect.
 * @property {(buffer: ArrayBuffer) => boolean} mprotectClose
 * @property {(byteLength: number) => ArrayBuffer} threadOpen A C thread that fills pages with the low byte of their number.
 * @property {(buffer: ArrayBuffer) => boolean} threadClose
 * @property {(buffer: ArrayBuffer) => void} drop Drops every page, so that it is missing again.
 * @property {(byteLength: number, fd: number) => ArrayBuffer} mmapOpen The kernel's own mmap.
 * @property {(buffer: ArrayBuffer) => void} mmapClose
 * @property {(buffer: ArrayBuffer, order: Uint32Array) => number} touch Sums a byte of each page in a C loop.
 * @property {(byteLength: number) => void} callsOpen A registered region for single ioctls, one a page.
 * @property {() => void} callsClose
 * @property {() => void} callsDrop Drops every page of it.
 * @property {() => void} callsCopy UFFDIO_COPY of each page, in a C loop.
 * @property {() => void} callsWake UFFDIO_WAKE of each page, in a C loop.
 * @property {(byteLength: number, fd: number) => ArrayBuffer} writesOpen
 *   Memory whose writes the kernel notes; every page is present and clean.
 * @property {(buffer: ArrayBuffer) => boolean} writesClose
 * @property {() => void} writesFlushBegin A C thread flushes it into the file, again and again.
 * @property {() => number} writesFlushes How many times it has begun to.
 * @property {() => number} writesFlushEnd Ends the thread, flushes what is left. The pages written in all.
 * @property {(address: bigint, byteLength: number) => number} written Bytes written to, as one PAGEMAP_SCAN says.
 * @property {(buffer: ArrayBufferLike) => void} increment Adds 1 to each 8-byte word, in a C loop.
 * @property {(fd: number, buffer: ArrayBuffer, unit: number, stride: number) => void} flush
 *   pwrite of `unit` bytes in every `stride` bytes, then fdatasync.
 * @property {(fd: number, byteLength: number, capacity: number) => void} rewriteOpen
 * @property {() => void} rewriteScan
 *   Increments each 8-byte word of the file, with a buffer of `capacity` bytes. The last of it stays there.
 * @property {() => void} rewriteClose Writes that, and fdatasync.
 * @property {(byteLength: number) => ArrayBuffer} continueOpen Pages of a memfd, all filled, none open.
 * @property {(buffer: ArrayBuffer) => boolean} continueClose
 * @property {(batch: number) => void} continueAll UFFDIO_CONTINUE of all pages, `batch` a call.
 * @property {() => void} continueShut None is open again.
 * @property {() => number} watchCost Nanoseconds of each fault that go into what is noted for the watchdog, the events and the statistics.
 * @property {() => number} threadCpuNs CPU time of this thread.
 * @property {() => number} pageSize
 * @property {() => number[]} cpus The CPUs that the process had at first.
 * @property {(cpu: number) => void} pinThread
 * @property {(cpu: number) => void} pinProcess Every thread; those made later inherit it.
 * @property {() => void} unpinProcess
 */

/** @type {Floor} */
export const floor = createRequire(import.meta.url)(target);

export { guestProgram, pagingProgram };

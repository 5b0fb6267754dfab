// The floors in plain C as JavaScript sees them: builds the addon when it is stale, loads it, and gives it types.
import { createRequire } from 'node:module';
import { build, pagingProgram, target } from './build.mjs';

build();

/**
 * One region a kind can be open at a time. What `…Open` returns is an external ArrayBuffer that `…Close` detaches.
 * @typedef {object} Floor
 * @property {(byteLength: number, fd: number, batch: number, capacity: number) => ArrayBuffer} sigbusOpen
 *   SIGBUS in the faulting thread, `batch` pages a fault, at most `capacity` pages present (0: no limit).
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
 * @property {() => number} threadCpuNs CPU time of this thread.
 * @property {() => number} pageSize
 * @property {() => number[]} cpus The CPUs that the process had at first.
 * @property {(cpu: number) => void} pinThread
 * @property {(cpu: number) => void} pinProcess Every thread; those made later inherit it.
 * @property {() => void} unpinProcess
 */

/** @type {Floor} */
export const floor = createRequire(import.meta.url)(target);

export { pagingProgram };

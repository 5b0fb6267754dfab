// How much memory the process has, from /proc. A collection first, the one that gives back all it can: neither garbage of JavaScript nor
// a collection that happens to run in between may count.
import { readFileSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

setFlagsFromString('--expose-gc');
/** @type {(options: object) => void} */
const collect = runInNewContext('gc');

const NEVER = new Int32Array(new SharedArrayBuffer(4));
const PAUSE_MS = 3;
const STILL = 3;
const TRIES = 30;

/**
 * @param {string} text
 * @param {string} field
 */
function kibibytes(text, field) {
  const match = new RegExp(`^${field}:\\s*(\\d+) kB$`, 'm').exec(text);
  return Number(match?.[1] ?? 0) * 1024;
}

function readings() {
  const status = readFileSync('/proc/self/status', 'latin1');
  // The counters of `status` may lag by some pages per thread on older kernels; the roll-up walks the page tables.
  let resident;
  try {
    resident = kibibytes(readFileSync('/proc/self/smaps_rollup', 'latin1'), 'Rss');
  } catch {
    resident = kibibytes(status, 'VmRSS');
  }
  return { resident, pageTables: kibibytes(status, 'VmPTE') };
}

/** Bytes of resident memory and of page tables, once they stand still: V8 gives memory back from threads of its own. */
export function memory() {
  collect({ type: 'major', execution: 'sync', flavor: 'last-resort' });
  let last = readings();
  for (let still = 0, tries = 0; still < STILL && tries < TRIES; tries++) {
    Atomics.wait(NEVER, 0, 0, PAUSE_MS);
    const now = readings();
    still = now.resident === last.resident ? still + 1 : 0;
    last = now;
  }
  return last;
}

/**
 * Resident bytes of the kernel mappings that begin inside [address, address + byteLength).
 * @param {bigint} address
 * @param {number} byteLength
 */
export function residentWithin(address, byteLength) {
  let inside = false;
  let total = 0;
  for (const line of readFileSync('/proc/self/smaps', 'latin1').split('\n')) {
    const head = /^([0-9a-f]+)-[0-9a-f]+ /.exec(line);
    if (head) {
      const begin = BigInt(`0x${head[1]}`);
      inside = begin >= address && begin < address + BigInt(byteLength);
    } else if (inside && line.startsWith('Rss:')) {
      total += kibibytes(line, 'Rss');
    }
  }
  return total;
}

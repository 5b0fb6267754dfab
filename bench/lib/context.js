// What each figure gets to work with, and what it gives back.
import { closeSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PAGE, random } from './touch.js';

/**
 * @typedef {object} Context
 * @property {typeof import('pagefault').map} map
 * @property {typeof import('pagefault').budget} budget
 * @property {typeof import('pagefault/stores')} stores
 * @property {typeof import('pagefault/kernel')} kernel
 * @property {string} path a file of `pages` pages, in the page cache
 * @property {number} pages
 * @property {number} rounds
 * @property {boolean} quick fewer rounds and pages
 * @property {number} workingSet pages that the guest of `guest-working-set` touches
 */

/**
 * @typedef {object} Target
 * @property {number} [atMost]
 * @property {number} [atLeast]
 */

/**
 * @typedef {object} Result
 * @property {number} value what the target speaks of
 * @property {'x' | '%' | 'ns' | 'us' | 'ms' | 'bytes' | 'KiB'} unit `x` for a ratio
 * @property {[number, number]} [spread] quartiles over the rounds
 * @property {number} [pagefault] the measurement behind it, in `per`
 * @property {number} [floor]
 * @property {string} [per] unit of pagefault, floor and others; default ns per page
 * @property {Record<string, number>} [others] what a user would do otherwise, and the like
 * @property {{ name: string, value: number, unit: Result['unit'], target: Target | null }[]} [also] measured beside the value, with targets of their own
 * @property {string} [note]
 */

/**
 * @typedef {object} Figure
 * @property {string} name
 * @property {string} title
 * @property {Target | null} target null where the figure is only reported
 * @property {(context: Context) => Promise<Result>} run
 */

/**
 * A file of random bytes for the figures to map, in a directory of its own.
 * @param {number} pages
 * @param {string} [parent]
 * @returns {{ path: string, remove: () => void }}
 */
export function makeFile(pages, parent = tmpdir()) {
  const directory = mkdtempSync(join(parent, 'pagefault-bench-'));
  const path = join(directory, 'pages');
  const fd = openSync(path, 'w', 0o600);
  const next = random(7);
  const chunk = new Uint32Array((256 * PAGE) / 4);
  for (let page = 0; page < pages; page += 256) {
    // A page is told from another one by its first word; the rest need not be new each time.
    if (page === 0) for (let i = 0; i < chunk.length; i++) chunk[i] = next() * 2 ** 32;
    for (let i = 0; i < 256; i++) chunk[(i * PAGE) / 4] = next() * 2 ** 32;
    writeSync(fd, chunk, 0, Math.min(256, pages - page) * PAGE);
  }
  closeSync(fd);
  return { path, remove: () => rmSync(directory, { recursive: true, force: true }) };
}

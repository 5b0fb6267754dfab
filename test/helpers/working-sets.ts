/** Working sets that tests make, and a folder for their files. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { recordWorkingSet, type SnapshotFacts, type WorkingSet } from '#dist/pager/working-set/index.js';

/** A snapshot of 1000 pages. */
export const SNAPSHOT: SnapshotFacts = { identity: 'ab'.repeat(32), byteLength: 1000 * 4096 - 5, pageSize: 4096 };

/** A folder that goes when the test ends. */
export function folderOf(test: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'pagefault-ws-'));
  test.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** What a run touched: these pages in this order, a millisecond apart, from `firstUs` on. */
export function touchedPages(
  pages: readonly number[],
  firstUs = 0,
): { pages: Uint32Array<ArrayBuffer>; atUs: Float64Array<ArrayBuffer> } {
  return { pages: Uint32Array.from(pages), atUs: Float64Array.from(pages, (_, i) => firstUs + 1000 * i) };
}

/** The working set of a run of SNAPSHOT. */
export function setOf(pages: readonly number[], firstUs = 0): WorkingSet {
  return recordWorkingSet(SNAPSHOT, touchedPages(pages, firstUs));
}

// `pagefault paging`, a command that pages a child process, against the program in C that does no more than that. One series of runs serves
// all the figures of this kind: the first to be taken leaves it beside the mapped file of the benchmark for the others.
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { pagingProgram } from '../floor/index.js';

const COMMAND = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const PAGES = 100_000;
const ROUNDS = 7;
/** A slower machine than this gets fewer pages, so that the figure stays within its time limit. */
const ALL_ROUNDS_MS = 120_000;
const PAGES_OF_WARM_UP = 10_000;

/**
 * One run: times seen from outside and as the program says, and its service times.
 * @typedef {{ wallMs: number, elapsedMs: number, p50: number, p999: number }} Run
 * @typedef {{ pages: number, pagefault: Run[], floor: Run[] }} Series
 */

/**
 * @param {string} who
 * @param {string} file
 * @param {readonly string[]} args
 * @param {number} pages
 * @returns {Run}
 */
function run(who, file, args, pages) {
  const begin = process.hrtime.bigint();
  const { status, signal, stdout, stderr, error } = spawnSync(file, args, { encoding: 'utf8', timeout: 60_000 });
  const wallMs = Number(process.hrtime.bigint() - begin) / 1e6;
  if (error) throw error;
  const said = (stderr.trim() || stdout.slice(0, 300)).replace(/\s+/g, ' ');
  const failure = `${who} failed (${signal ?? `exit code ${status}`}): ${said}`;
  if (status !== 0) throw new Error(failure);
  const { faults, elapsedMs, serviceNs } = JSON.parse(stdout.trim().split('\n').at(-1) ?? '');
  if (faults !== pages) throw new Error(`${who} served ${faults} faults, not ${pages}.`);
  return { wallMs, elapsedMs, p50: serviceNs.p50, p999: serviceNs.p999 };
}

/**
 * @param {number} pages
 * @param {boolean} reversed
 */
function round(pages, reversed) {
  const pagefault = () =>
    run('pagefault paging', process.execPath, [COMMAND, 'paging', String(pages), '--quiet', '--json'], pages);
  const floor = () => run('The floor', pagingProgram, [String(pages)], pages);
  if (!reversed) return { pagefault: pagefault(), floor: floor() };
  const first = floor();
  return { pagefault: pagefault(), floor: first };
}

/**
 * @param {import('./context.js').Context} context
 * @returns {Series}
 */
function measure({ rounds: asked, quick }) {
  const rounds = Math.min(asked, ROUNDS);
  const begin = performance.now();
  const warmUp = quick ? 1000 : PAGES_OF_WARM_UP;
  round(warmUp, false);
  const longest = Math.floor((warmUp * ALL_ROUNDS_MS) / rounds / (performance.now() - begin));
  const pages = quick ? 5000 : Math.min(PAGES, longest);
  /** @type {Series} */
  const series = { pages, pagefault: [], floor: [] };
  for (let i = 0; i < rounds; i++) {
    const { pagefault, floor } = round(pages, i % 2 === 1);
    series.pagefault.push(pagefault);
    series.floor.push(floor);
  }
  return series;
}

/**
 * The runs of this benchmark, made by whoever asks first.
 * @param {import('./context.js').Context} context
 * @returns {Series}
 */
export function pagingRuns(context) {
  const kept = join(dirname(context.path), 'paging.json');
  try {
    return JSON.parse(readFileSync(kept, 'utf8'));
  } catch {
    const series = measure(context);
    writeFileSync(kept, JSON.stringify(series));
    return series;
  }
}

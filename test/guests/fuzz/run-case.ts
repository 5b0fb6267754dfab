/** Runs one case in this process: the child checks every byte, this side what the pager says of itself. Throws what is wrong. */

import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { type GuestRegion, type PagedProcess, type PagingEvent, spawnPaged } from 'pagefault/guests';
import { memory, type PageStore, type ReadAnswer } from 'pagefault/stores';
import { GUEST_PAGE } from '#dist/guests/pages.js';
import { Random } from '../../fuzz/random.js';
import { fillStored, guestProgram } from '../../helpers/guest-program.js';
import type { Case } from './case.js';

const HANG_MS = 40_000;
const PAGE = 4096;

function right(offset: number, into: Uint8Array): number {
  fillStored(offset, into);
  return into.byteLength;
}

function storeOf(of: Case) {
  if (of.store === 'memory') {
    const bytes = new Uint8Array(of.byteLength);
    fillStored(0, bytes);
    return memory(bytes);
  }
  const random = new Random(of.seed ^ 0x5a5a);
  const later = async (offset: number, into: Uint8Array): Promise<ReadAnswer> => {
    if (random.chance(0.5)) await sleep(random.below(4));
    return right(offset, into);
  };
  const flaky = (offset: number, into: Uint8Array): ReadAnswer | Promise<ReadAnswer> => {
    if (random.chance(0.1)) throw new Error('not now');
    if (random.chance(0.1)) return sleep(random.below(3)).then(() => Promise.reject(new Error('not now either')));
    return random.chance(0.5) ? later(offset, into) : right(offset, into);
  };
  const chunks = (offset: number, into: Uint8Array): ReadAnswer => {
    const bytes = new Uint8Array(into.byteLength);
    right(offset, bytes);
    const at = random.below(bytes.byteLength);
    return [bytes.subarray(0, at), bytes.subarray(at)];
  };
  const read = { 'at once': right, later, flaky, chunks }[of.store];
  const store: PageStore = { byteLength: of.byteLength, concurrency: of.concurrency, read };
  return of.pageSize === 0 ? store : { ...store, pageSize: of.pageSize };
}

/** What the events add up to. */
class Tally {
  readonly count: Record<string, number> = {};
  resident = 0;
  most = 0;

  readonly add = (event: PagingEvent): void => {
    this.count[event.type] = (this.count[event.type] ?? 0) + 1;
    if (event.type === 'copied' && event.byteLength > 0) this.resident += 1;
    if (event.type === 'evicted') this.resident -= 1;
    if (event.type === 'removed') this.resident -= event.count;
    this.most = Math.max(this.most, this.resident);
  };
}

function wrongRegion({ pages, index }: GuestRegion): string | undefined {
  const { present, dirty, open, evicting, loading } = GUEST_PAGE;
  const count = (...states: number[]): number => pages.states.filter((state) => states.includes(state)).length;
  const resident = count(present, dirty, open, evicting);
  if (pages.resident !== resident) return `region ${index} counts ${pages.resident} pages and has ${resident}`;
  if (pages.loading !== count(loading)) return `region ${index} counts ${pages.loading} pages on their way`;
  if (pages.saved.size > 0) return `region ${index} is over and keeps bytes`;
  return undefined;
}

function wrongStats(of: Case, process_: PagedProcess, tally: Tally): string | undefined {
  const stats = process_.stats();
  const size = process_.regions[0]?.pageSize ?? PAGE;
  const pages = Math.ceil(of.byteLength / size) * (of.rounds + 1);
  if (stats.failures > 0) return `${stats.failures} pages failed`;
  if (stats.residentBytes < 0 || stats.residentBytes > pages * size) return `${stats.residentBytes} bytes are there`;
  if (stats.serviceNs.count > stats.faults) return `${stats.serviceNs.count} services of ${stats.faults} faults`;
  if (!of.observed) return undefined;
  if (tally.count['evicted'] !== undefined && tally.count['evicted'] !== stats.evictions) return 'events of evictions';
  if ((tally.count['region'] ?? 0) !== process_.regions.length) return 'events of regions';
  const always = of.strategy === 'budget' && of.switches.length === 0 && (of.what & 11) === 0;
  // Each thread that faulted lately has room of its own, also those of earlier rounds, which are over.
  const limit = Math.max(Math.floor(of.resident / size), 4 + 2 * of.threads * of.rounds);
  return always && tally.most > limit ? `${tally.most} pages at once in a budget of ${limit}` : undefined;
}

async function change(process_: PagedProcess, of: Case): Promise<void> {
  let over = false;
  process_.exited.then(() => {
    over = true;
  });
  for (const { afterMs, strategy, readahead } of of.switches) {
    await sleep(afterMs);
    if (over) return;
    if (readahead !== undefined) process_.readahead = readahead;
    process_.strategy = strategy;
  }
}

export async function runCase(of: Case): Promise<void> {
  const tally = new Tally();
  const { strategy, readahead, resident, trackWrites } = of;
  const args = ['fuzz', of.threads, of.operations, of.seed, of.what, of.rounds].map(String);
  const process_ = await spawnPaged(guestProgram(), args, {
    store: storeOf(of),
    strategy,
    readahead,
    resident,
    trackWrites,
    stdio: ['ignore', 'pipe', 'inherit'],
    ...(of.observed ? { onEvent: tally.add } : {}),
  });
  let text = '';
  process_.child.stdout?.setEncoding('utf8').on('data', (part: string) => {
    text += part;
  });
  const closed = process_.child.stdout === null ? undefined : once(process_.child.stdout, 'close');
  const changing = change(process_, of);
  const timer = setTimeout(() => {
    const states = process_.regions.map(({ over, pages }) => `${over ? 'over' : ''} ${[...pages.states].join('')}`);
    text += `HANGS ${JSON.stringify(process_.stats())}\n${states.at(-1)}\n`;
    process_.kill('SIGKILL');
  }, HANG_MS);
  const status = await process_.exited;
  clearTimeout(timer);
  await Promise.all([closed, changing]);
  if (process_.failure !== undefined) throw process_.failure;
  if (status.state !== 'exited' || status.code !== 0) throw new Error(`${JSON.stringify(status)}: ${text}`);
  const wrong = process_.regions.map(wrongRegion).find(Boolean) ?? wrongStats(of, process_, tally);
  if (wrong !== undefined) throw new Error(wrong);
}

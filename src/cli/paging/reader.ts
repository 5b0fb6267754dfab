/**
 * What a child, or a thread, does with its memory: reads four times in each page, writes to it where asked, and checks that everything is as it must
 * be. The thread that touches: it is asleep in the middle of an instruction whenever a page is missing.
 */
import type { Explainer } from './explain.js';
import type { Speaker } from './speaker.js';
import { sleep } from './write-out.js';

/** Where each page is read. */
export const OFFSETS = [0x00f, 0x40f, 0x80f, 0xc0f] as const;

/** What is to be done. Plain data, so that it can travel to other processes and threads. */
export interface Task {
  readonly pages: number;
  readonly pageSize: number;
  /** Reads everything this often. What the first pass found, the others must find. */
  readonly passes: number;
  /** One byte is written to each page, after the reads. */
  readonly write: boolean;
  /** Between two pages. */
  readonly pauseMs: number;
}

export interface Reading extends Task {
  readonly bytes: Uint8Array;
  readonly address: bigint;
  /** Reads the pages `first`, `first + step`, … */
  readonly first: number;
  readonly step: number;
  readonly speaker: Speaker;
  readonly explainer: Explainer;
  /** Not 0: stop before the next page. */
  readonly stop: Int32Array | undefined;
}

const A = 65;
const Z = 90;
/** 'a' for an 'A'. */
const LOWER = 32;

/** A sentence about the first page that was not as it must be. */
export function readPages(reading: Reading): string | undefined {
  const { pages, first, step, passes, pauseMs, stop } = reading;
  const letters = new Uint8Array(Math.ceil(Math.max(0, pages - first) / step));
  for (let pass = 0; pass < passes; pass++) {
    for (let page = first, i = 0; page < pages; page += step, i++) {
      if (stop !== undefined && Atomics.load(stop, 0) !== 0) return undefined;
      const seen = readPage(reading, page);
      if (seen.wrong !== undefined) return seen.wrong;
      if (pass > 0 && letters[i] !== seen.letter) {
        return `page ${page} held ${shown(letters[i] ?? 0)} first and ${shown(seen.letter)} when it came back`;
      }
      letters[i] = seen.letter;
      if (pass > 0 && reading.write && seen.mark !== seen.letter + LOWER) {
        return `page ${page} had ${shown(seen.letter + LOWER)} written to it and came back with ${shown(seen.mark)}`;
      }
      if (pass === 0 && reading.write) writePage(reading, page, seen.letter);
      sleep(pauseMs);
    }
  }
  return undefined;
}

interface Seen {
  readonly letter: number;
  /** What lies where the page is written. */
  readonly mark: number;
  readonly wrong: string | undefined;
}

/** The first read is where the page is written, so that it is looked at apart. */
function readPage(reading: Reading, page: number): Seen {
  const { bytes, pageSize, speaker, address, explainer } = reading;
  const base = page * pageSize;
  explainer.explain('touch');
  const mark = bytes[base + OFFSETS[0]] ?? 0;
  if (!speaker.silent)
    speaker.say({ type: 'read', letter: String.fromCharCode(mark), address: address + BigInt(base + OFFSETS[0]) });
  const letter = bytes[base + OFFSETS[1]] ?? 0;
  let same = letter >= A && letter <= Z && (mark === letter || mark === letter + LOWER);
  for (let i = 1; i < OFFSETS.length; i++) {
    const offset = base + (OFFSETS[i] ?? 0);
    const code = bytes[offset] ?? 0;
    same &&= code === letter;
    if (!speaker.silent)
      speaker.say({ type: 'read', letter: String.fromCharCode(code), address: address + BigInt(offset) });
  }
  const found = (): string => OFFSETS.map((offset) => shown(bytes[base + offset] ?? 0)).join(', ');
  return {
    letter,
    mark,
    wrong: same ? undefined : `page ${page} holds ${found()} where one and the same letter must be`,
  };
}

function writePage(reading: Reading, page: number, letter: number): void {
  const { bytes, pageSize, address, speaker, explainer } = reading;
  const offset = page * pageSize + OFFSETS[0];
  explainer.explain('touch-write');
  bytes[offset] = letter + LOWER;
  speaker.say({ type: 'wrote', letter: String.fromCharCode(letter + LOWER), address: address + BigInt(offset) });
}

function shown(code: number): string {
  return code >= 32 && code < 127 ? `'${String.fromCharCode(code)}'` : `byte ${code}`;
}

// Guests of the daemon (bench/floor/guest.c), paged by the engine in this process, and the floor: the same guest, served by a loop in C.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, rmSync, writeSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { GuestEngine, Snapshot } from 'pagefault/guests';
import { Uffd, UnixListener } from 'pagefault/kernel';
import { guestProgram } from '../floor/index.js';

const PAGE = 4096;

/** @typedef {{ p50: number, p99: number, p999: number, most: number, allNs: number, sum: number }} Touched */

/**
 * @param {readonly string[]} args
 * @param {Record<string, string>} [env]
 */
export function start(args, env = {}) {
  const child = spawn(guestProgram, [...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, ...env },
  });
  let said = '';
  child.stdout.setEncoding('utf8').on('data', (text) => {
    said += text;
  });
  /** @returns {Promise<Touched>} */
  const done = async () => {
    const [code, signal] = await once(child, 'close');
    if (code !== 0 && said === '') throw new Error(`the guest ended with ${signal ?? code}`);
    return JSON.parse(said);
  };
  return { child, done: done(), line: () => said };
}

/**
 * A file of `pages` pages that are not zero, beside the benchmark's own. Warm.
 * @param {string} path
 * @param {number} pages
 */
export function makeImage(path, pages) {
  const image = join(dirname(path), `image-${pages}`);
  const fd = openSync(image, 'w');
  const chunk = new Uint8Array(1 << 20);
  for (let at = 0; at < pages * PAGE; at += chunk.length) {
    for (let i = 0; i < chunk.length; i += PAGE) chunk[i] = 1 + (((at + i) / PAGE) % 251);
    writeSync(fd, chunk, 0, Math.min(chunk.length, pages * PAGE - at), at);
  }
  closeSync(fd);
  return { image, remove: () => rmSync(image, { force: true }) };
}

/** Keeps the heap busy, as a daemon with something else to do would. */
export function makeGarbage() {
  let kept = [];
  const timer = setInterval(() => {
    for (let i = 0; i < 2000; i++) kept.push({ i, text: `object ${i}`, list: new Array(20).fill(i) });
    if (kept.length > 50_000) kept = [];
  }, 5);
  return () => clearInterval(timer);
}

/** The daemon: a socket on which guests are taken, each from a snapshot. */
export class Daemon {
  engine = new GuestEngine();
  /** @param {string} directory */
  constructor(directory) {
    this.path = join(directory, `guests-${process.pid}.sock`);
    this.listener = UnixListener.listen(this.path);
  }

  /**
   * Starts a guest, and lets it begin when `prepare` has done with it.
   * @param {{ snapshot: Snapshot, pages: number, threads?: number, everyUs?: number, record?: boolean, env?: Record<string, string>,
   *   prepare?: (guest: import('pagefault/guests').Guest) => Promise<void>, wait?: boolean }} options
   */
  async run({ snapshot, pages, threads = 1, everyUs = 0, record = false, env, prepare }) {
    const { child, done, line } = start(['client', this.path, String(pages), String(threads), String(everyUs)], env);
    const { guest, socket } = await this.#accept(snapshot, pages, record);
    await prepare?.(guest);
    socket.send(Uint8Array.of(1));
    while (line() === '' && child.exitCode === null) await new Promise((next) => setTimeout(next, 5));
    const numbers = guest.numbers();
    const trace = guest.trace();
    socket.close();
    const touched = await done;
    await guest.close();
    return { touched, numbers, trace };
  }

  /** A guest that does nothing. @param {Snapshot} snapshot @param {number} pages */
  async idle(snapshot, pages) {
    const { child, done } = start(['client', this.path, String(pages), '1', '0']);
    done.catch(() => {}); // it is killed in the end
    const { guest, socket } = await this.#accept(snapshot, pages, false);
    return {
      close: async () => {
        const ended = once(child, 'close');
        await guest.close();
        socket.close();
        await ended;
      },
    };
  }

  /** @param {Snapshot} snapshot @param {number} pages @param {boolean} record */
  async #accept(snapshot, pages, record) {
    let socket = this.listener.accept();
    while (socket === undefined) {
      await new Promise((next) => setTimeout(next, 1));
      socket = this.listener.accept();
    }
    while (socket.available < 16) {
      socket.fill();
      await new Promise((next) => setTimeout(next, 1));
    }
    const said = socket.read(16);
    const fd = socket.takeFd();
    if (said === undefined || fd === undefined) throw new Error('the guest said nothing');
    const view = new DataView(said.buffer, said.byteOffset);
    const regions = [
      { address: view.getBigUint64(0, true), byteLength: Number(view.getBigUint64(8, true)), offset: 0 },
    ];
    const guest = this.engine.add({
      uffd: Uffd.fromFd(fd),
      pidfd: socket.peerPidFd(),
      regions,
      pageSize: PAGE,
      snapshot,
      name: `guest of ${pages} pages`,
      record,
    });
    return { guest, socket };
  }

  async close() {
    await this.engine.close();
    this.listener.close();
  }
}

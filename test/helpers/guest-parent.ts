/**
 * A pager as small as it can be, written to the protocol and not to our own implementation of it: one child, its regions, and a store of
 * known bytes. Runs on the event loop of the test.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { Uffd, UnixSocket } from 'pagefault/kernel';
import { root } from './run.js';

const MESSAGE = 64;
const MAGIC = 0x31474650;
export const KIND = { hello: 1, region: 2, ack: 3, drop: 4, dropped: 5 } as const;

/** What the store has at an offset; the same as in guest.c. */
export function byteAt(offset: number): number {
  return (offset * 7 + Math.floor(offset / 4096) * 13 + 1) & 0xff;
}

export function storeBytes(offset: number, byteLength: number): Uint8Array {
  return Uint8Array.from({ length: byteLength }, (_, i) => byteAt(offset + i));
}

/** A message with its magic and kind; the rest is the caller's. */
export function message(kind: number, fill: (view: DataView) => void = () => {}): Uint8Array {
  const bytes = new Uint8Array(MESSAGE);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, MAGIC, true);
  view.setUint32(4, kind, true);
  fill(view);
  return bytes;
}

export interface Hello {
  version?: number;
  flags?: number;
  storeLength?: number;
  pageSize?: number;
  ackTimeoutMs?: number;
}

export function hello({ version = 1, flags = 0, storeLength = 64 * 4096, pageSize = 0, ackTimeoutMs = 0 }: Hello = {}) {
  return message(KIND.hello, (view) => {
    view.setUint32(8, version, true);
    view.setUint32(12, flags, true);
    view.setBigUint64(16, BigInt(storeLength), true);
    view.setUint32(24, pageSize, true);
    view.setUint32(28, ackTimeoutMs, true);
  });
}

export interface Region {
  uffd: Uffd;
  address: bigint;
  byteLength: number;
  offset: number;
  pageSize: number;
  flags: number;
  memory: number;
  /** The message as it came. */
  bytes: Uint8Array;
}

/** How to answer a region: an errno, 0 to serve it, undefined for no answer. */
type Answer = (region: Omit<Region, 'uffd'>) => number | undefined;

export interface ParentOptions {
  /** The first bytes that are sent; undefined: none. */
  hello?: Uint8Array | undefined;
  answer?: Answer;
  env?: NodeJS.ProcessEnv;
  /** Pages to serve; after these, none. */
  pages?: number;
}

export interface Ended {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

const TIMEOUT_MS = 30_000;

export class Parent {
  readonly child: ChildProcess;
  readonly regions: Region[] = [];
  readonly dropped: Uint8Array[] = [];
  /** Addresses of pages that were asked for, in order. */
  readonly faults: bigint[] = [];
  stdout = '';
  stderr = '';
  readonly #socket: UnixSocket;
  readonly #answer: Answer;
  readonly #timer: NodeJS.Timeout;
  readonly #closed: Promise<unknown[]>;
  #pages: number;

  constructor(command: string, args: readonly string[], options: ParentOptions = {}) {
    const { answer = () => 0, env = {}, pages = Number.POSITIVE_INFINITY } = options;
    const [ours, theirs] = UnixSocket.pair();
    this.#socket = ours;
    this.#answer = answer;
    this.#pages = pages;
    const first = 'hello' in options ? options.hello : hello();
    if (first !== undefined) ours.send(first);
    this.child = spawn(command, args, {
      cwd: root,
      env: { ...process.env, PAGEFAULT_GUEST_FD: '3', ...env },
      stdio: ['pipe', 'pipe', 'pipe', theirs.fd],
    });
    theirs.close();
    this.#closed = once(this.child, 'close');
    this.#timer = setTimeout(() => this.child.kill('SIGKILL'), TIMEOUT_MS);
    this.child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.stdout += text;
    });
    this.child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text;
    });
    ours.onReadable(() => this.#read());
  }

  #read(): void {
    if (this.#socket.closed) return;
    const state = this.#fill();
    for (let bytes = this.#socket.read(MESSAGE); bytes !== undefined; bytes = this.#socket.read(MESSAGE)) {
      this.#take(bytes.slice());
    }
    if (state === 'end') this.#socket.close();
  }

  /** A child that ends before it has read its hello resets the connection: an end like any other. */
  #fill(): 'data' | 'empty' | 'end' {
    try {
      return this.#socket.fill();
    } catch (error) {
      if ((error as { errno?: number }).errno === constants.errno.ECONNRESET) return 'end';
      throw error;
    }
  }

  #take(bytes: Uint8Array): void {
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    if (view.getUint32(0, true) !== MAGIC) throw new Error('a message without the magic number');
    const kind = view.getUint32(4, true);
    if (kind === KIND.dropped) this.dropped.push(bytes);
    else if (kind === KIND.region) this.#takeRegion(bytes, view);
    else throw new Error(`a message of kind ${kind}`);
  }

  #takeRegion(bytes: Uint8Array, view: DataView): void {
    const fd = this.#socket.takeFd();
    if (fd === undefined) throw new Error('a region without a descriptor');
    const uffd = Uffd.fromFd(fd);
    const region = {
      address: view.getBigUint64(8, true),
      byteLength: Number(view.getBigUint64(16, true)),
      offset: Number(view.getBigUint64(24, true)),
      pageSize: view.getUint32(32, true),
      flags: view.getUint32(36, true),
      memory: view.getUint32(56, true),
      bytes,
    };
    const status = this.#answer(region);
    if (status === 0) {
      this.regions.push({ ...region, uffd });
      uffd.onReadable(() => this.#serve({ ...region, uffd }), { keepAlive: false });
    } else {
      uffd.close();
    }
    if (status === undefined) return;
    this.send(
      message(KIND.ack, (ack) => {
        ack.setBigUint64(8, region.address, true);
        ack.setUint32(16, status, true);
        ack.setUint32(60, view.getUint32(60, true), true);
      }),
    );
  }

  #serve(region: Region): void {
    if (region.uffd.closed) return;
    for (const event of region.uffd.readEvents()) {
      if (event.type !== 'pagefault') continue;
      const page = event.address - (event.address % BigInt(region.pageSize));
      this.faults.push(page);
      if (this.#pages-- <= 0) continue;
      const bytes = storeBytes(region.offset + Number(page - region.address), region.pageSize);
      region.uffd.resolve(page, bytes, { pageSize: region.pageSize });
    }
  }

  send(bytes: Uint8Array): void {
    this.#socket.send(bytes);
  }

  /** Asks for pages back. */
  drop(address: bigint, byteLength: number, serial: number): void {
    this.send(
      message(KIND.drop, (view) => {
        view.setBigUint64(8, address, true);
        view.setBigUint64(16, BigInt(byteLength), true);
        view.setUint32(60, serial, true);
      }),
    );
  }

  /** What the end of a pager does: all its descriptors are closed at once. */
  die(): void {
    for (const { uffd } of this.regions) uffd.close();
    if (!this.#socket.closed) this.#socket.close();
  }

  /** Waits until it is so, at most ten seconds. */
  async until(what: () => boolean): Promise<void> {
    const deadline = Date.now() + 10_000;
    while (!what()) {
      if (Date.now() > deadline) throw new Error(`never came true: ${what}\n${this.stdout}\n${this.stderr}`);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  /** How the child ended; everything is closed then. */
  async ended(): Promise<Ended> {
    const [code, signal] = (await this.#closed) as [number | null, NodeJS.Signals | null];
    clearTimeout(this.#timer);
    await this.#drained();
    this.die();
    return { code, signal, stdout: this.stdout, stderr: this.stderr };
  }

  /** What the child said last is still in the socket. */
  async #drained(): Promise<void> {
    const deadline = Date.now() + 1000;
    while (!this.#socket.closed && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

const folder = mkdtempSync(join(tmpdir(), 'pagefault-guest-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));

/** Compiles test/helpers/guest.c against the public header, as a user would; the path, or the reason why not. */
export function compileGuest(
  language: 'c' | 'c++',
  defines: readonly string[] = [],
): { path: string } | { reason: string } {
  const compiler = language === 'c' ? process.env['CC'] || 'cc' : process.env['CXX'] || 'c++';
  const [command = 'cc', ...prefix] = compiler.split(' ').filter(Boolean);
  const path = join(folder, `guest-${language}${defines.length}`);
  const standard = language === 'c' ? ['-x', 'c', '-std=c11'] : ['-x', 'c++', '-std=c++17'];
  const warnings = ['-Wall', '-Wextra', '-Wpedantic', '-Wshadow', '-Werror'];
  const source = [`-I${join(root, 'include')}`, join(root, 'test', 'helpers', 'guest.c')];
  const args = [...prefix, ...standard, '-O2', '-pthread', ...warnings, ...defines, ...source, '-o', path];
  const built = spawnSync(command, args, { encoding: 'utf8' });
  if (built.error !== undefined) return { reason: `there is no ${command} here` };
  if (built.status !== 0) throw new Error(`guest.c cannot be compiled as ${language}: ${built.stderr}`);
  return { path };
}

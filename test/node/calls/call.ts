/** What a row of the table of docs/limits.md does: a function of Node that is given a view, and that must do to paged memory what it does to a plain array. */

import { once } from 'node:events';

export type Act = (bytes: Uint8Array<ArrayBuffer>) => unknown;

export interface Call {
  /** As in the table. */
  readonly name: string;
  /** Gives the bytes away, or fills them. What it returns is compared with what it returns for a plain array. */
  readonly act: Act;
  /** It writes into the bytes: always the same, or something else each time. */
  readonly fills?: 'same' | 'random';
}

export function call(name: string, act: Act): Call {
  return { name, act };
}

export function filling(name: string, act: Act): Call {
  return { name, act, fills: 'same' };
}

/** Promise of a function with a callback. */
export function calledBack<T>(begin: (callback: (error: Error | null, value: T) => void) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    begin((error, value) => {
      if (error) reject(error);
      else resolve(value);
    });
  });
}

/** All that a stream brings. */
export async function collect(stream: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks);
}

export async function listening<Server extends NodeJS.EventEmitter & { listen(port: number, host: string): unknown }>(
  server: Server,
): Promise<Server> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return server;
}

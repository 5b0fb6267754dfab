/** A set of bits the kernel gave, by name. Any thread. */

/** Bits with names; bits that have none, of a newer kernel, are kept. */
export class FlagSet<Name extends string> {
  readonly bits: bigint;
  /** Names of the bits that are set, in the order of the bits. */
  readonly names: readonly Name[];
  /** Bits that are set and have no name here. */
  readonly unknown: bigint;

  /** @param table The name of each bit, from bit 0; undefined where a bit has none. */
  constructor(bits: bigint, table: readonly (Name | undefined)[]) {
    const names: Name[] = [];
    let unknown = bits;
    table.forEach((name, bit) => {
      const mask = 1n << BigInt(bit);
      if (name === undefined || (bits & mask) === 0n) return;
      names.push(name);
      unknown &= ~mask;
    });
    this.bits = bits;
    this.names = names;
    this.unknown = unknown;
  }

  has(name: Name): boolean {
    return this.names.includes(name);
  }

  /** 'a, b'; bits without a name as one hexadecimal number; 'none'. */
  toString(): string {
    const words: string[] = [...this.names];
    if (this.unknown !== 0n) words.push(`0x${this.unknown.toString(16)}`);
    return words.length === 0 ? 'none' : words.join(', ');
  }
}

import { ProtocolError, ProtocolErrorCode } from "@modelcontextprotocol/server";

/** Entries of a list in one answer. */
const PAGE_SIZE = 100;

/** Cursors are opaque to clients, so that what is in them may change. */
export function cursorOf(position: string): string {
  return Buffer.from(position, "utf8").toString("base64url");
}

/** What {@link cursorOf} was given. */
export function positionOf(cursor: string): string {
  return Buffer.from(cursor, "base64url").toString("utf8");
}

export function invalidCursor(cursor: string): ProtocolError {
  return new ProtocolError(
    ProtocolErrorCode.InvalidParams,
    `The cursor ${JSON.stringify(cursor)} is none of this server's; begin the list again without one.`,
  );
}

/** Cuts a list that never changes into pages, once; the result finds a page by its cursor. */
export function pagesOf<Item>(
  items: readonly Item[],
): (cursor: string | undefined) => { items: Item[]; nextCursor?: string } {
  const pages: { items: Item[]; nextCursor?: string }[] = [];
  for (let start = 0; start === 0 || start < items.length; start += PAGE_SIZE) {
    const end = start + PAGE_SIZE;
    pages.push({
      items: items.slice(start, end),
      ...(end < items.length && { nextCursor: cursorOf(String(pages.length + 1)) }),
    });
  }
  return (cursor) => {
    const page = pages[cursor === undefined ? 0 : /^\d+$/.test(positionOf(cursor)) ? Number(positionOf(cursor)) : -1];
    if (page === undefined) throw invalidCursor(cursor ?? "");
    return page;
  };
}

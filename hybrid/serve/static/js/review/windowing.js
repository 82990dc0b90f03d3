// Which of many rows are to be seen: only those are in the page. Pure.

/**
 * Lay groups of photos out in rows: a heading, then rows of `columns` photos.
 * @param {{name: string, items: object[]}[]} groups
 * @param {{columns: number, tile: number, heading: number}} sizes  Heights in pixels.
 * @returns {{rows: object[], height: number}}  Each row with `top`, `height` and what it shows.
 */
export function layOut(groups, { columns, tile, heading }) {
  const rows = [];
  let top = 0;
  const add = (row, height) => {
    rows.push({ ...row, top, height });
    top += height;
  };
  for (const [number, group] of groups.entries()) {
    add({ kind: "heading", key: `h${number}`, group }, heading);
    for (let first = 0; first < group.items.length; first += columns) {
      add({ kind: "tiles", key: `t${number}.${first}`, group, items: group.items.slice(first, first + columns) }, tile);
    }
  }
  return { rows, height: top };
}

/**
 * The rows between two heights, with `margin` pixels around them.
 * @param {{top: number, height: number}[]} rows  From top to bottom.
 */
export function visible(rows, top, height, margin = 0) {
  let low = 0;
  let high = rows.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (rows[middle].top + rows[middle].height < top - margin) low = middle + 1;
    else high = middle;
  }
  let end = low;
  while (end < rows.length && rows[end].top < top + height + margin) end += 1;
  return rows.slice(low, end);
}

/** First and last (exclusive) of `count` things of one size that a strip shows. */
export function span(start, length, size, count, margin = 2) {
  const first = Math.max(0, Math.floor(start / size) - margin);
  return [first, Math.min(count, Math.ceil((start + length) / size) + margin)];
}

/**
 * Photos in groups of one answer, largest group first; within a group the surest last.
 * @param {object[]} items
 */
export function byAnswer(items) {
  const groups = new Map();
  for (const item of items) {
    const name = item.prediction.label;
    if (!groups.has(name)) groups.set(name, { name, items: [] });
    groups.get(name).items.push(item);
  }
  return [...groups.values()].sort((a, b) => b.items.length - a.items.length || a.name.localeCompare(b.name));
}

/** All between two photos of the grid, in its order, both included. */
export function range(order, from, to) {
  const [a, b] = [order.indexOf(from), order.indexOf(to)];
  if (a < 0 || b < 0) return [to];
  return order.slice(Math.min(a, b), Math.max(a, b) + 1);
}

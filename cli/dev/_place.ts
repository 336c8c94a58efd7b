/** A place named on a command line, seen from the folder the user stands in: a task itself runs at the root. */
export function fromInitialFolder(place: string, root: string): string {
  if (place.startsWith("/") || place.startsWith("-")) return place;
  return `${Deno.env.get("INIT_CWD") ?? root}/${place}`;
}

/* Types that the page's scripts share; those of its state (PageState, CircuitState, Group) are made from its schema. */

interface PageData {
  names: string[];
  circuits: { corrupted: boolean; strongest: string | null; annotations: unknown }[];
}

interface Work {
  id: number;
  title: string;
  stage: string;
  share: number;
  warnings: string[];
  ended: boolean;
}

interface Facts {
  titles: string[];
  leftOut: string;
  refused: boolean;
  nodes: { value: string; key: string; label: string }[];
}

/** Where some of the nodes stand: x, y, the room for a name, and a chip's height, by node. */
interface Layout {
  what: string;
  /** Of how many of the strongest it is, of either circuit where two stand in it. */
  count: number;
  ids: string[];
  roomy: boolean;
  places: Record<string, [number, number, number, number]>;
  rows: { label: string; layer: number; y: number; high: number }[];
  columns: { label: string; title: string; pos: number; x: number; width: number }[];
  gaps: { title: string; x: number }[];
}

interface Pane {
  name: string;
  cy: cytoscape.Core;
  layouts: Layout[];
  /** The layout that the nodes stand in. */
  axes: Layout;
  nodes: cytoscape.NodeSingular[];
  edges: cytoscape.EdgeSingular[];
  /** Of each edge the ids of the elements that it joins. */
  ends: string[][];
  /** The nodes on show beside the outputs, strongest first, and the edges between all on show. */
  shown: cytoscape.NodeSingular[];
  between: cytoscape.EdgeSingular[];
  shownEdges: number;
  key: string;
  axis: number;
  foot: number;
  slant: number;
  width: number;
  height: number;
}

interface Marked {
  edges: number;
  /** Null for what the circuit opens on. */
  nodes: number | null;
  focus: string | null;
  position: number | null;
  edge: [string, string] | null;
  pins: Set<string>;
  labels: Record<string, string>;
  settings: Map<string, number | "corrupted">;
}

interface Window {
  dash_clientside: { set_props: (id: string, props: Record<string, unknown>) => void; [namespace: string]: unknown };
  circuitlens: { cy: (name: string) => cytoscape.Core };
}

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
  nodes: { value: string; key: string; label: string }[];
}

interface Axes {
  rows: { label: string; layer: number; y: number; high: number }[];
  columns: { label: string; pos: number; x: number; width: number }[];
}

interface Pane {
  name: string;
  cy: cytoscape.Core;
  axes: Axes;
  nodes: cytoscape.NodeSingular[];
  edges: cytoscape.EdgeSingular[];
  shownNodes: number;
  shownEdges: number;
  nodeShare: (count: number) => number;
  edgeShare: (count: number) => number;
  axis: number;
  width: number;
  height: number;
}

interface Marked {
  edges: number;
  nodes: number;
  focus: string | null;
  pins: Set<string>;
  labels: Record<string, string>;
  settings: Map<string, number | "corrupted">;
}

interface Window {
  dash_clientside: { set_props: (id: string, props: Record<string, unknown>) => void; [namespace: string]: unknown };
  circuitlens: { cy: (name: string) => cytoscape.Core };
}

import sys
from archc.importers import load
from archc.plan import plan, shrink
from archc.cost.kernels import kernels
from collections import Counter
m=shrink(load(sys.argv[1])); g=plan(m)
for name,ks in kernels(g).items():
    print("==",name)
    for k in ks:
        if k.rows: print("  ROW ", [n.op.kind+":"+str(n.outs[0].type) if n.outs else n.op.kind for n in k.nodes], "reads",[str(v.type) for v in k.reads],"writes",[str(v.type) for v in k.writes])
        else: print("      ", k.nodes[0].op.kind, k.nodes[0].name)

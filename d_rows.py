import sys, torch, numpy as np
from archc.importers import load
from archc.plan import plan, shrink
from archc.cost.kernels import kernels, sources, looks
from archc.rows.lower import *
from archc.rows.lower import Lowering
from archc.rows.interpret import run
from archc.rows.value import order
from archc.graph.interpreter import Interpreter
from archc.graph import Node
from collections import Counter
def chain_nodes(k, g):
    own=set(k.nodes)
    out=[]
    def need(v):
        n=v.node
        if n is None or n in out: return
        if n in own or (n.op.view and inside(n)) or (hasattr(n.op,'view') and n.op.view and all(made_of_param(x) for x in n.ins)):
            for x in n.ins: need(x)
            if n not in out: out.append(n)
    def made_of_param(v): return v.param is not None or (v.node is not None and bool(v.node.ins) and all(made_of_param(x) for x in v.node.ins))
    def inside(n):  # a view whose source is made inside
        return any(x.node in own or (x.node is not None and x.node.op.view and inside(x.node)) or made_of_param(x) for x in n.ins)
    for n in k.nodes:
        for x in n.ins: need(x)
        if n not in out: out.append(n)
    return out
import torch
from archc.graph.torch_package import torch_package
for spec in [a for a in sys.argv[1:] if a!="-v"]:
    m=shrink(load(spec)); g=plan(m)
    torch.manual_seed(0)
    params={}
    for p in g.parameters():
        sh=p.spec.shape
        params[p.name]=torch.randint(0,2,sh) if p.spec.dtype=="int" else torch.randn(sh,dtype=torch.float64)*(0.3 if len(sh)>1 else 0.2)+(1.0 if p.spec.role=="norm" else 0)
    it=Interpreter(g,params)
    from importlib import import_module
    pk=torch_package().__name__
    cap={}
    orig=it._node
    def hook(node,values,prefix,state):
        orig(node,values,prefix,state)
        for v in node.ins+node.outs:
            if v in values and v not in cap: cap[v]=values[v]
    it._node=hook
    toks=torch.randint(0,m.vocab,(2,9))
    T=import_module(pk+".runtime.time").Time
    time=T(first=torch.zeros(2,dtype=torch.long),count=torch.full((2,),9),positions=torch.arange(9)[None].expand(2,9),past=0,new=9,cached=False,aligned=True,full=True)
    it.run(toks,time)
    ok,bad,err=0,Counter(),0.0
    for unit,ks in kernels(g).items():
        for k in ks:
            if not k.rows: continue
            nodes=chain_nodes(k,g)
            i=0
            while i<len(nodes):
                best=None
                for j in range(len(nodes),i,-1):
                    part=nodes[i:j]; inner={v for n in part for v in n.outs}
                    leaves={v:f"x{a}" for a,v in enumerate(dict.fromkeys(v for n in part for v in n.ins if v not in inner))}
                    users=set()
                    outs=[v for n in part for v in n.outs if v not in {y for n2 in part for y in n2.ins} or v in k.writes]
                    outs=[v for v in outs if v in cap]
                    if not outs: continue
                    widths=sorted({v.type.shape[-1] for n in part for v in (*n.ins,*n.outs) if v.type.shape and isinstance(v.type.shape[-1],int)},reverse=True)
                    last=None
                    for lead in (3,2,1):
                        for w in widths[:3]:
                            try:
                                low=lowered(part,leaves,{f"y{a}":v for a,v in enumerate(outs)},lead,w)
                                best=(j,lead,w,low); break
                            except (Unfit,AssertionError,KeyError,IndexError,ValueError) as e: last=e
                        if best: break
                    if best: break
                if not best:
                    if not nodes[i].op.view: bad[nodes[i].op.kind+" "+str(nodes[i].outs[0].type)+" "+repr(last)[:80]]+=1
                    i+=1; continue
                j,lead,w,low=best
                arr={}
                okk=True
                for n,(v,row) in low.takes.items():
                    x=cap.get(v)
                    if x is None: okk=False; break
                    x=x.detach().double()
                    if row.token:
                        t=1
                        for s in x.shape[:lead]: t*=s
                        x=x.reshape(t,*row.streams,(w if row.row else 1))
                    else: x=x.reshape(1,*row.streams,(w if row.row else 1))
                    arr[n]=x.numpy()
                if okk and any(isinstance(r_.rule,r.Rotate) for _,r_ in low.gives.values()) : pass
                if okk:
                    try:
                        got=run([r_ for _,r_ in low.gives.values()],arr)
                        for (n,(v,r_)),a in zip(low.gives.items(),got):
                            want=cap[v].detach().double().numpy()
                            e=np.abs(a.reshape(want.shape)-want).max()/max(1e-9,np.abs(want).max()); err=max(err,e)
                            if e>1e-9: print("ERR",e,[n.op.kind for n in nodes[i:j]])
                        ok+=1
                        if "-v" in sys.argv: print(lead,w,[n.op.kind for n in nodes[i:j]])
                    except Exception as e: print("RUN",repr(e)[:100],lead,w,[n.op.kind for n in nodes[i:j]])
                i=j
    print(spec,ok,"chains, worst",err,bad)

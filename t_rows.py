import numpy as np, torch
from archc.rows.value import Program
from archc.rows.rules import *
from archc.rows.gradient import gradients
from archc.rows.interpret import run
def boundary(n=4, D=8, rounds=5, eps=1e-6):
    p=Program(); m=n*n+2*n
    X=p.make(Input(name="X",streams=(n,),row=True)); F=p.make(Input(name="F",row=True))
    post=p.make(Input(name="post",streams=(n,))); comb=p.make(Input(name="comb",streams=(n,n)))
    fn=p.make(Param(name="fn",streams=(m,n),row=True)); w=p.make(Param(name="w",row=True))
    base=p.make(Param(name="base",streams=(m,))); scale=p.make(Param(name="scale",streams=(3,)))
    X2=add(product("k,->k",post,F),product("jk,j->k",comb,X))
    r=p.make(Rsqrt(),add(mul(p.make(RowSum(),product("k,k->",X2,X2)),1/(n*D)),1e-6))
    mix=mul(p.make(Project(),X2,fn),r)
    part=lambda g,lo,shape: add(mul(p.make(Take(start=lo,shape=shape),mix),p.make(Take(start=g,shape=()),scale)),p.make(Take(start=lo,shape=shape),base))
    pre=add(p.make(Sigmoid(),part(0,0,(n,))),eps); post2=mul(p.make(Sigmoid(),part(1,n,(n,))),2.)
    c=part(2,2*n,(n,n)); e=p.make(Exp(),add(c,p.make(Spread(kept="j",made="jk",sizes=(n,n)),mul(p.make(StreamMax(),c),-1.))))
    c=add(product("jk,j->jk",e,recip(product("jk->j",e))),eps)
    rows=lambda c: product("jk,j->jk",c,recip(add(product("jk->j",c),eps)))
    cols=lambda c: product("jk,k->jk",c,recip(add(product("jk->k",c),eps)))
    comb2=repeat(rounds-1,lambda c: cols(rows(c)),cols(c))
    z=product("k,k->",pre,X2); y=mul(mul(z,p.make(Rsqrt(),add(mul(p.make(RowSum(),mul(z,z)),1/D),1e-6))),w)
    return p,dict(X=X,F=F,post=post,comb=comb,fn=fn,base=base,scale=scale,w=w),dict(X2=X2,y=y,post2=post2,comb2=comb2)
p,ins,outs=boundary()
T,n,D=5,4,8; rng=np.random.default_rng(0)
arr={}
for k,v in ins.items():
    arr[k]=rng.normal(size=((T if v.token else 1),*v.streams,(D if v.row else 1)))
got=run(list(outs.values()),arr)
tt={k:torch.tensor(a,requires_grad=True) for k,a in arr.items()}
def ref(X,F,post,comb,fn,base,scale,w,eps=1e-6,rounds=5):
    post,comb,base,scale=post[...,0],comb[...,0],base[0,:,0],scale[0,:,0]
    X2=post[...,None]*F[:,None]+torch.einsum("tjk,tjd->tkd",comb,X)
    f=X2.flatten(1); r=(f.pow(2).mean(-1,keepdim=True)+1e-6).rsqrt(); mix=f@fn[0].flatten(1).T*r
    pre=torch.sigmoid(mix[:,:4]*scale[0]+base[:4])+eps; po=2*torch.sigmoid(mix[:,4:8]*scale[1]+base[4:8])
    c=(mix[:,8:]*scale[2]+base[8:]).unflatten(-1,(4,4)).softmax(-1)+eps
    c=c/(c.sum(-2,keepdim=True)+eps)
    for _ in range(rounds-1):
        c=c/(c.sum(-1,keepdim=True)+eps); c=c/(c.sum(-2,keepdim=True)+eps)
    z=(pre[...,None]*X2).sum(1); y=z*(z.pow(2).mean(-1,keepdim=True)+1e-6).rsqrt()*w[0]
    return X2,y,po[...,None],c[...,None]
want=ref(**tt)
for g,x,k in zip(got,want,outs): print(k,np.abs(g-x.detach().numpy()).max())
gs={k:rng.normal(size=g.shape) for k,g in zip(outs,got)}
sum((x*torch.tensor(gs[k])).sum() for x,k in zip(want,outs)).backward()
seeds={v:p.make(Input(name="g_"+k,streams=v.streams,row=v.row)) for k,v in outs.items()}
G=gradients(seeds,list(ins.values()))
gg=run(G,{**arr,**{"g_"+k:a for k,a in gs.items()}})
for k,a in zip(ins,gg): print(k,a.shape,np.abs(a-tt[k].grad.numpy()).max()/np.abs(a).max())
from archc.rows.rewrite import *
L=Levels()
h=hoisted(list(outs.values()))
print([L.of(v) for v in outs.values()],[L.of(v) for v in h])
got2=run(h,arr)
print([np.abs(a-b).max() for a,b in zip(got,got2)])
H=summed_last(collected(hoisted(gradients({hv:p.make(Input(name="g_"+k,streams=v.streams,row=v.row)) for (k,v),hv in zip(outs.items(),h)},list(ins.values())))))
g2=run(H,{**arr,**{"g_"+k:a for k,a in gs.items()}})
print([np.abs(a-b).max()/np.abs(a).max() for a,b in zip(gg,g2)],[L.of(v) for v in H])
from archc.rows.cpp import *
import ctypes,subprocess
for v,k in zip(h,outs): p.named(k,v)
def compile_(k,src):
    open(f"/tmp/spike7/{k}.cpp","w").write(src)
    subprocess.run(["g++","-O3","-march=native","-ffast-math","-fopenmp-simd","-shared","-fPIC",f"/tmp/spike7/{k}.cpp","-o",f"/tmp/spike7/{k}.so"],check=True)
    return getattr(ctypes.CDLL(f"/tmp/spike7/{k}.so"),k)
K=Kernel("boundary",D,ins,dict(zip(outs,h)))
src=print_cpp(K); fn_=compile_("boundary",src)
def call(f,takes,gives,T):
    f.argtypes=[ctypes.c_void_p]*(len(takes)+len(gives))+[ctypes.c_int64]
    f(*[a.ctypes.data for a in takes],*[a.ctypes.data for a in gives],T)
a32={k:np.ascontiguousarray(a,dtype=np.float32) for k,a in arr.items()}
o32=[np.zeros(g.shape,np.float32) for g in got]
call(fn_,list(a32.values()),o32,T)
print("cpp",[np.abs(a-b).max() for a,b in zip(o32,got)])
# backward
fwd=[v for v in order(list(h)) if isinstance(v.rule,(RowSum,Project))]
gin={k:p.make(Input(name="g_"+k,streams=v.streams,row=v.row)) for k,v in outs.items()}
raw=gradients({hv:gin[k] for k,hv in zip(outs,h)},list(ins.values()))
saved={f"saved_{i}":v for i,v in enumerate(fwd)}
sub={v.id:p.make(Input(name=k,streams=v.streams)) for k,v in saved.items()}
cut=rebuilt(raw,lambda o,nv: sub.get(o.id,nv))
BW=summed_last(collected(hoisted(cut)))
takes={**ins,**{"g_"+k:v for k,v in gin.items()},**{k:sub[v.id] for k,v in saved.items()}}
sv=run(list(saved.values()),arr)
given={**arr,**{"g_"+k:a for k,a in gs.items()},**dict(zip(saved,sv))}
chk=run(BW,given); print("bwd",[np.abs(a-b).max()/np.abs(a).max() for a,b in zip(gg,chk)],[L.of(v) for v in BW])
KB=Kernel("boundary_back",D,takes,{"d_"+k:v for k,v in zip(ins,BW)})
src=print_cpp(KB); fb=compile_("boundary_back",src)
ob=[np.zeros(a.shape,np.float32) for a in gg]
call(fb,[np.ascontiguousarray(given[k],dtype=np.float32) for k in takes],ob,T)
print("cppb",[np.abs(a-b).max()/np.abs(b).max() for a,b in zip(ob,gg)])

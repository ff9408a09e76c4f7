import json,sys,subprocess,tempfile,os
O,A,B,P=sys.argv[1:5]
load=lambda p: json.load(open(p))
try: o,a,b=load(O),load(A),load(B)
except Exception as e: print('cannot read',P,e,file=sys.stderr); sys.exit(1)
idx=lambda nb:{c['id']:c for c in nb['cells']}
io,ia,ib=idx(o),idx(a),idx(b)
src=lambda c:''.join(c['source'])
bad=0
def merge_text(x,y,z):
    fs=[]
    for t in (y,x,z):
        f=tempfile.NamedTemporaryFile('w',delete=False); f.write(t if t.endswith('\n') else t+'\n'); f.close(); fs.append(f.name)
    r=subprocess.run(['git','merge-file','-p','--diff3','-L','ours','-L','base','-L','theirs',*fs],capture_output=True,text=True)
    out=r.stdout
    if not y.endswith('\n') or not z.endswith('\n'): out=out.rstrip('\n')
    return out, r.returncode
def merge_cell(cid):
    global bad
    co,ca,cb=io.get(cid),ia.get(cid),ib.get(cid)
    if ca is None and cb is None: return None
    if co is None: # added
        if ca and cb and src(ca)!=src(cb): bad+=1; return ca
        return ca or cb
    if ca is None: # deleted ours
        if src(cb)!=src(co): bad+=1; cb=dict(cb); cb['source']=('<<<<<<< DELETED BY OURS, CHANGED BY THEIRS\n'+src(cb)).splitlines(True); return cb
        return None
    if cb is None:
        if src(ca)!=src(co): bad+=1; ca=dict(ca); ca['source']=('<<<<<<< DELETED BY THEIRS, CHANGED BY OURS\n'+src(ca)).splitlines(True); return ca
        return None
    if src(ca)==src(cb): 
        return cb if cb.get('outputs')!=co.get('outputs') and ca.get('outputs')==co.get('outputs') else ca
    if src(cb)==src(co):
        if cb.get('outputs')!=co.get('outputs') and ca.get('outputs')==co.get('outputs'): pass
        return ca
    if src(ca)==src(co): return cb
    text,n=merge_text(src(co),src(ca),src(cb))
    bad+=n if n>0 else 0
    out=dict(ca); out['source']=text.splitlines(True)
    if ca.get('outputs')==co.get('outputs') and 'outputs' in cb: out['outputs']=cb['outputs']
    return out
order=[c['id'] for c in a['cells']]
# insert theirs' new cells
prev=None
for c in b['cells']:
    cid=c['id']
    if cid not in order and (cid not in io or cid in ib and cid not in ia and src(ib[cid])!=src(io[cid])):
        pos=order.index(prev)+1 if prev in order else 0
        order.insert(pos,cid)
    if cid in order: prev=cid
cells=[m for cid in order if (m:=merge_cell(cid)) is not None]
a['cells']=cells
open(A,'w').write(json.dumps(a,indent=1,ensure_ascii=False)+'\n')
if bad: print(f'{P}: {bad} conflicts in cells',file=sys.stderr)
sys.exit(1 if bad else 0)

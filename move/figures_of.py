"""Figures of the house: python figures_of.py TREE"""
import ast, io, re, sys, tokenize, json
from pathlib import Path
root=Path(sys.argv[1]); pk=root/'vicmae'
mods=[p for p in pk.rglob('*.py') if p.stem not in('__init__','_modidx','__main__')]
def code_lines(p):
    t=p.read_text(); tree=ast.parse(t); doc=set()
    for n in ast.walk(tree):
        if isinstance(n,(ast.FunctionDef,ast.ClassDef,ast.Module,ast.AsyncFunctionDef)) and n.body and isinstance(n.body[0],ast.Expr) and isinstance(n.body[0].value,ast.Constant) and isinstance(n.body[0].value.value,str):
            doc|=set(range(n.body[0].lineno,n.body[0].end_lineno+1))
    lines=set()
    for tok in tokenize.generate_tokens(io.StringIO(t).readline):
        if tok.type in(tokenize.COMMENT,tokenize.NL,tokenize.NEWLINE,tokenize.INDENT,tokenize.DEDENT,tokenize.ENDMARKER): continue
        lines|=set(range(tok.start[0],tok.end[0]+1))
    return len(lines-doc)
fl=[];imports=0;arrows=set()
nbn={}
for p in (root/'nbs').glob('*.ipynb'):
    m=re.search(r'default_exp ([\w.]+)',p.read_text())
    if m: nbn[m[1]]=p.stem
names={'.'.join(p.relative_to(pk).with_suffix('').parts) for p in mods}
big=[]
tot=raw=0
for p in mods:
    own='.'.join(p.relative_to(pk).with_suffix('').parts); room=own.rpartition('.')[0]
    tree=ast.parse(p.read_text()); n=code_lines(p); tot+=n; raw+=len(p.read_text().splitlines())
    if n>300: big.append((own,n))
    for node in ast.walk(tree):
        if isinstance(node,(ast.FunctionDef,ast.AsyncFunctionDef)): fl.append(node.end_lineno-node.lineno+1)
    seen=set()
    for node in ast.walk(tree):
        if isinstance(node,ast.ImportFrom):
            b=(node.module or '')
            if node.level==0:
                if not b.startswith('vicmae'): continue
                b=b[len('vicmae'):].lstrip('.')
            else:
                base=own.split('.')[:-node.level]; b='.'.join([*base,*([b] if b else [])])
            cand=[b]+[f'{b}.{a.name}'.lstrip('.') for a in node.names]
            for c in cand:
                if c in names: seen.add(c)
    imports+=len(seen)
    for s in seen:
        r=s.rpartition('.')[0] or s
        if r!=(room or own): arrows.add((room or own,r))
fl.sort()
rooms={}
for n in names: rooms.setdefault(n.rpartition('.')[0] or '-',[]).append(n)
print('modules',len(mods),'raw lines',raw,'code lines',tot,'functions',len(fl),'median',fl[len(fl)//2],'p90',fl[int(.9*len(fl))],'max',fl[-1])
print('imports between modules',imports,'arrows between rooms',len(arrows))
print({r:len(m) for r,m in sorted(rooms.items())})
print('over 300 code lines',sorted(big,key=lambda x:-x[1]))
spell=[p for p in mods if re.search(r'config\.json|metrics\.jsonl|evals\.jsonl|status\.json|step_\{|step_\*',p.read_text())]
print('modules that spell names of a run',len(spell),[p.stem for p in spell])

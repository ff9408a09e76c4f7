import ast,sys,glob,json,importlib,os
os.environ['OMP_NUM_THREADS']='1'
def srcs():
    for p in sorted(glob.glob('vicmae/**/*.py',recursive=True)+glob.glob('tests/**/*.py',recursive=True)+glob.glob('docs/*.py')): yield p,open(p).read()
    for p in sorted(glob.glob('nbs/*.ipynb')):
        for c in json.load(open(p))['cells']:
            if c['cell_type']=='code':
                s='\n'.join('pass' if l.lstrip()[:1] in '%!' and l.strip() else l for l in ''.join(c['source']).splitlines())
                yield p,s
bad=set()
for p,s in srcs():
    try: t=ast.parse(s)
    except SyntaxError as e: bad.add((p,'syntax',str(e))); continue
    for n in ast.walk(t):
        if isinstance(n,ast.ImportFrom):
            m=n.module or ''
            if n.level:
                own=p[:-3].replace('/','.').split('.')
                m='.'.join(own[:-n.level]+([m] if m else []))
            if m.split('.')[0]!='vicmae': continue
            try: mod=importlib.import_module(m)
            except Exception as e: bad.add((p,m,repr(e)[:80])); continue
            for a in n.names:
                if not hasattr(mod,a.name):
                    try: importlib.import_module(m+'.'+a.name)
                    except Exception: bad.add((p,m,a.name))
for b in sorted(bad): print(*b)

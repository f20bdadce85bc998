"""The rules of the simple tagger: a tag, and the English and Chinese words that give it.

Ours. English: a word, a beginning of words (`~`), words that follow each other (`.`), or a pattern (with a backslash).
Chinese: anywhere in the text. The lists are short on purpose: a model tags better, these need none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TABLE = r"""
task/poem: poem~ haiku~ sonnet~ rhyme~ limerick~ 诗 俳句 对联
task/story: story stories tale~ novel~ fiction plot 故事 小说 童话
task/essay: essay~ article~ blog paragraph~ 文章 作文 散文 短文 段落
task/letter: email~ e.mail letter~ memo message 邮件 信件 写信 一封信
task/speech: speech~ presentation~ debate~ 演讲 发言稿 辩论
task/script: script~ screenplay dialogue~ conversation~ 剧本 对话 台词
task/song: song~ lyrics rap 歌词 歌曲
task/slogan: slogan~ tagline~ advert~ headline~ caption~ 标语 口号 广告
task/title: title~ rename name 标题 取名 起名 题目
task/joke: joke~ funny pun~ riddle~ 笑话 谜语 段子 幽默
task/summarise: summar~ abstract tl.dr shorten condense 总结 概括 摘要 概述
task/translate: translat~ 翻译 译成
task/rewrite: rewrite~ rephrase~ paraphras~ reword~ edit~ 改写 重写 润色 修改
task/correct: correct~ grammar~ spelling proofread~ mistake~ error~ 纠正 语法 错别字 病句
task/classify: classif~ categor~ label~ sentiment 分类 归类 情感 判断
task/extract: extract~ identify find keyword~ highlight 提取 抽取 找出 关键词
task/compare: compar~ contrast difference~ versus vs pros cons 比较 对比 区别 优缺点 异同
task/explain: explain~ describe~ why meaning~ 解释 说明 描述 为什么 什么意思
task/define: define definition~ what.is what.are 定义 什么是 是什么
task/how-to: how.to how.do how.can steps guide tutorial instruct~ 如何 怎么 怎样 步骤 教程
task/list: list~ enumerate give.me.\d examples~ 列出 列举 举例 例子
task/ideas: idea~ brainstorm~ suggest~ recommend~ creative invent~ 想法 建议 推荐 创意 点子
task/plan: plan~ schedule~ itinerar~ strateg~ roadmap 计划 规划 方案 日程 策略
task/advice: advice should.i tips help.me 劝 怎么办 意见 帮我
task/opinion: opinion~ think.about do.you.think argue~ believe 看法 观点 评价 认为
task/review: review~ critique~ feedback evaluate~ assess~ 评论 书评 影评 评估
task/analyse: analy~ interpret~ examine~ 分析 解读 剖析
task/role-play: pretend act.as imagine role you.are.a 扮演 假装 假设你 想象
task/complete: complete~ fill.in blank~ continue~ 补全 填空 续写 完成
task/order: sort~ order~ rank~ arrange~ 排序 排列 顺序
task/generate-data: generate~ random~ dataset~ sample~ 生成 随机
task/question-writing: quiz~ question~ interview~ survey~ 问题 面试 测验 问卷
task/choose: which choose~ option~ select~ 选择 哪个 哪一 选项
task/outline: outline~ bullet~ 提纲 大纲 要点
task/design: design~ build~ create~ develop~ 设计 制作 创建 开发
task/code: code coding program~ function~ script algorithm~ implement~ 代码 编程 程序 函数 算法
task/debug: debug~ bug~ fix~ exception~ traceback 调试 报错 漏洞
code/python: python pandas numpy django
code/javascript: javascript react node typescript
code/java: java kotlin
code/c: c\+\+ cpp c\#
code/sql: sql database~ 数据库
code/html: html css website~ web 网站 网页
code/shell: bash shell linux command~ regex 命令行 正则
maths/arithmetic: calculate~ sum multiply add subtract divide~ \d+\s*[-+*/×÷]\s*\d+ 计算 求和 加减 乘 除以 多少
maths/algebra: equation~ solve~ polynomial~ algebra~ variable~ 方程 求解 代数 未知数
maths/geometry: triangle~ circle~ angle~ geometr~ area volume 三角形 圆 面积 体积 几何
maths/statistics: probabilit~ statistic~ average mean median 概率 统计 平均
maths/number: prime~ fraction~ percent~ number~ \d+% 质数 分数 百分 数字
topic/health: health~ disease~ medic~ doctor~ symptom~ exercise~ diet~ sleep 健康 疾病 医 症状 运动 减肥 睡眠
topic/food: food~ recipe~ cook~ meal~ restaurant~ dish~ bak~ 食 菜 烹饪 餐 吃
topic/sport: sport~ football soccer basketball tennis game~ team 体育 足球 篮球 比赛 球
topic/travel: travel~ trip~ hotel~ tour~ vacation~ visit~ flight~ 旅行 旅游 酒店 景点 出行
topic/history: histor~ war~ ancient centur~ empire~ revolution~ 历史 战争 古代 朝 革命
topic/geography: countr~ city cities capital river~ mountain~ map~ 国家 城市 首都 河 山 地理
topic/physics: physic~ energy gravit~ quantum force~ light speed 物理 能量 引力 量子 速度 光
topic/chemistry: chemi~ molecul~ acid~ element~ reaction~ 化学 分子 元素 酸
topic/biology: biolog~ cell~ gene~ dna evolution~ species 生物 细胞 基因 进化 物种
topic/space: space planet~ star~ moon sun universe earth 宇宙 行星 太阳 月亮 地球 恒星
topic/environment: environment~ climate pollution recycl~ sustain~ green 环境 气候 污染 环保 可持续
topic/animals: animal~ dog~ cat~ bird~ fish~ horse~ 动物 狗 猫 鸟 鱼
topic/plants: plant~ tree~ flower~ garden~ farm~ 植物 树 花 农 园
topic/law: law~ legal~ court~ contract~ right~ crime~ 法律 法院 合同 权利 犯罪
topic/politics: politic~ government~ president~ election~ democra~ policy 政治 政府 总统 选举 政策
topic/economy: econom~ market~ inflation trade tax~ 经济 市场 通货 贸易 税
topic/finance: financ~ invest~ stock~ bank~ money budget~ price~ 金融 投资 股票 银行 钱 预算 价格
topic/business: business~ compan~ customer~ product~ startup~ sales 公司 企业 客户 产品 创业 销售
topic/marketing: market~ brand~ social.media campaign~ 营销 品牌 推广 社交媒体
topic/work: job~ career~ resume~ employ~ manager~ office 工作 职业 简历 员工 经理 面试
topic/education: school~ student~ teach~ learn~ universit~ exam~ study 学校 学生 教 学习 大学 考试
topic/language: word~ sentence~ language~ synonym~ noun~ verb~ english 词 句子 语言 英语 成语
topic/philosophy: philosoph~ ethic~ moral~ logic~ freedom 哲学 伦理 道德 逻辑 自由
topic/psychology: psycholog~ emotion~ stress anxiety happiness feel~ mental 心理 情绪 压力 焦虑 幸福 感受
topic/religion: religio~ god~ bible church~ buddh~ islam~ 宗教 上帝 佛 教会
topic/art: art~ paint~ draw~ museum~ photo~ picture~ 艺术 绘画 画 摄影 图片
topic/music: music~ guitar~ piano~ band~ concert~ 音乐 吉他 钢琴 乐队
topic/film: film~ movie~ actor~ tv cinema 电影 演员 电视 导演
topic/literature: book~ author~ poet~ literature character~ 书 作者 文学 人物 名著
topic/games: video.game~ chess minecraft puzzle~ player~ 游戏 象棋 玩家
topic/technology: technolog~ robot~ internet smartphone~ device~ 技术 科技 机器人 互联网 手机
topic/ai: ai artificial.intelligence machine.learning neural chatbot~ model~ 人工智能 机器学习 模型 聊天
topic/computer: computer~ software hardware server~ network~ windows 电脑 计算机 软件 硬件 服务器 网络
topic/security: security password~ hack~ encrypt~ privacy virus 安全 密码 黑客 加密 隐私 病毒
topic/family: family parent~ child~ mother~ father~ baby kid~ 家庭 父母 孩子 妈妈 爸爸 儿童
topic/relations: friend~ love~ marriage relationship~ dating 朋友 爱 婚 恋 关系
topic/fashion: fashion cloth~ dress~ shoe~ wear~ 时尚 衣 穿 鞋
topic/home: house~ home~ room~ furniture clean~ apartment~ 家 房 家具 清洁 装修
topic/transport: car~ bus train~ bike~ drive~ traffic 车 交通 驾驶 公交 火车
topic/weather: weather rain~ snow~ temperature storm~ 天气 雨 雪 温度
topic/time: date year~ month~ day calendar holiday~ birthday 日期 年份 月份 节日 生日
topic/people: who.is who.was biograph~ famous celebrit~ 谁是 传记 名人 人物
topic/engineering: engineer~ machine~ circuit~ manufactur~ 工程 机械 电路 制造
form/table: table~ spreadsheet~ excel csv 表格 表
form/json: json xml yaml
form/steps: step.by.step steps 一步一步 步骤
form/length: words sentences \d+.words in.one.sentence brief~ short 字以内 不超过 简短 一句话 字
form/style: formal informal tone style persuasive polite 正式 语气 风格 礼貌
form/given-text: following below given text passage 以下 下面 给定 下列
safety/violence: kill~ murder~ attack~ bomb~ weapon~ violen~ 杀 暴力 炸弹 武器 攻击
safety/crime: steal~ fraud~ scam~ illegal~ smuggl~ launder~ 偷 诈骗 非法 走私 洗钱
safety/drugs: drug~ cocaine meth~ heroin alcohol 毒品 吸毒 酗酒
safety/self-harm: suicid~ self.harm hurt.myself 自杀 自残 轻生
safety/hate: racis~ discriminat~ hate~ stereotype~ sexis~ 歧视 种族 仇恨 偏见
safety/sex: sex~ porn~ nude~ 色情 性行为 裸
safety/deception: fake~ manipulat~ misinformation blackmail lie~ 假 操纵 谣言 勒索 欺骗
"""


@dataclass(frozen=True)
class Rules:
    """The table as what a text is looked up in: each word, beginning, phrase, Chinese word or pattern with its tags."""

    words: dict[str, set[str]]
    beginnings: dict[str, set[str]]
    phrases: dict[str, set[str]]  # words with a space on each side
    signs: dict[str, set[str]]
    patterns: dict[re.Pattern[str], set[str]]


def _read(table: str) -> Rules:
    rules = Rules({}, {}, {}, {}, {})
    for line in table.strip().splitlines():
        tag, _, words = line.partition(": ")
        for word in words.split():
            if "\\" in word:
                rules.patterns.setdefault(re.compile(rf"(?<!\w){word}"), set()).add(tag)
            elif not word.isascii():
                rules.signs.setdefault(word, set()).add(tag)
            elif word.endswith("~") and word[:-1].isalpha():
                rules.beginnings.setdefault(word[:-1], set()).add(tag)
            elif word.isalpha():
                rules.words.setdefault(word, set()).add(tag)
            else:
                phrase = " ".join(re.findall(r"[a-z]+", word))
                rules.phrases.setdefault(f" {phrase} ", set()).add(tag)
    return rules


RULES = _read(_TABLE)
SHORTEST = min(map(len, RULES.beginnings))
LONGEST = max(map(len, RULES.beginnings))
